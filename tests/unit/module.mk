# One stanza a test program: its source, its own library and those below it, lowest last. A test that
# needs more than that has found a wrong upward call.
UNIT_TESTS =
SOCKET_TESTS =
UNIT_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
if HAVE_CMOCKA
check_PROGRAMS += $(UNIT_TESTS) $(SOCKET_TESTS)
TESTS += $(UNIT_TESTS)
# ZeroMQ hands memory from thread to thread by means that the thread sanitizer cannot see.
if !SANITIZE_THREAD
TESTS += $(SOCKET_TESTS)
endif
endif

# ---- common

UNIT_TESTS += %D%/test_common
%C%_test_common_SOURCES = %D%/test_common.c
%C%_test_common_CFLAGS = $(UNIT_CFLAGS)
%C%_test_common_LDADD = $(BASE_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_common_files
%C%_test_common_files_SOURCES = %D%/test_common_files.c
%C%_test_common_files_CFLAGS = $(UNIT_CFLAGS)
%C%_test_common_files_LDADD = $(BASE_LIBS) $(CMOCKA_LIBS)

# ---- kernels

UNIT_TESTS += %D%/test_functions
%C%_test_functions_SOURCES = %D%/test_functions.c
%C%_test_functions_CFLAGS = $(UNIT_CFLAGS)
%C%_test_functions_LDADD = $(KERN_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_kernels
%C%_test_kernels_SOURCES = %D%/test_kernels.c %D%/kernel_cases.c %D%/kernel_cases.h \
	%D%/kernel_inputs.c %D%/kernel_inputs.h
%C%_test_kernels_CFLAGS = $(UNIT_CFLAGS)
%C%_test_kernels_LDADD = $(KERN_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_fused
%C%_test_fused_SOURCES = %D%/test_fused.c
%C%_test_fused_CFLAGS = $(UNIT_CFLAGS)
%C%_test_fused_LDADD = $(KERN_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_matrix
%C%_test_matrix_SOURCES = %D%/test_matrix.c
%C%_test_matrix_CFLAGS = $(UNIT_CFLAGS)
%C%_test_matrix_LDADD = $(KERN_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_pool
%C%_test_pool_SOURCES = %D%/test_pool.c
%C%_test_pool_CFLAGS = $(UNIT_CFLAGS)
%C%_test_pool_LDADD = $(KERN_LIBS) $(CMOCKA_LIBS)

# On x86 the kernels of 64-bit Arm are cross-compiled and run under emulation, once: the script has no
# use for a sanitizer.
EXTRA_DIST += %D%/run_neon.sh %D%/kernel_cases_main.c %D%/one_text_main.c
if !SANITIZE
TESTS += %D%/run_neon.sh
endif

# ---- model

# Random models in memory, for whatever needs one.
TINY_MODEL = %D%/tiny_model.c %D%/tiny_types.c %D%/tiny_model.h

UNIT_TESTS += %D%/test_chat
%C%_test_chat_SOURCES = %D%/test_chat.c
%C%_test_chat_CFLAGS = $(UNIT_CFLAGS)
%C%_test_chat_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_demo
%C%_test_demo_SOURCES = %D%/test_demo.c $(TINY_MODEL)
%C%_test_demo_CFLAGS = $(UNIT_CFLAGS)
%C%_test_demo_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_exec
%C%_test_exec_SOURCES = %D%/test_exec.c $(TINY_MODEL)
%C%_test_exec_CFLAGS = $(UNIT_CFLAGS)
%C%_test_exec_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_forward
%C%_test_forward_SOURCES = %D%/test_forward.c $(TINY_MODEL)
%C%_test_forward_CFLAGS = $(UNIT_CFLAGS)
%C%_test_forward_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_gguf
%C%_test_gguf_SOURCES = %D%/test_gguf.c %D%/gguf_mutate.h
%C%_test_gguf_CFLAGS = $(UNIT_CFLAGS)
%C%_test_gguf_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_gguf_parts
%C%_test_gguf_parts_SOURCES = %D%/test_gguf_parts.c $(MAKE_MODEL)
%C%_test_gguf_parts_CFLAGS = $(UNIT_CFLAGS)
%C%_test_gguf_parts_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_hostile_model
%C%_test_hostile_model_SOURCES = %D%/test_hostile_model.c %D%/gguf_mutate.h $(TINY_MODEL)
%C%_test_hostile_model_CFLAGS = $(UNIT_CFLAGS)
%C%_test_hostile_model_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_logits
%C%_test_logits_SOURCES = %D%/test_logits.c $(TINY_MODEL) $(MAKE_MODEL)
%C%_test_logits_CFLAGS = $(UNIT_CFLAGS)
%C%_test_logits_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_one_text
%C%_test_one_text_SOURCES = %D%/test_one_text.c %D%/one_text.c %D%/one_text.h $(TINY_MODEL) \
	$(MAKE_MODEL)
%C%_test_one_text_CFLAGS = $(UNIT_CFLAGS)
%C%_test_one_text_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_quantise
%C%_test_quantise_SOURCES = %D%/test_quantise.c $(TINY_MODEL) $(MAKE_MODEL)
%C%_test_quantise_CFLAGS = $(UNIT_CFLAGS)
%C%_test_quantise_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_sampler
%C%_test_sampler_SOURCES = %D%/test_sampler.c
%C%_test_sampler_CFLAGS = $(UNIT_CFLAGS)
%C%_test_sampler_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_tokenizer
%C%_test_tokenizer_SOURCES = %D%/test_tokenizer.c
%C%_test_tokenizer_CFLAGS = $(UNIT_CFLAGS) $(JANSSON_CFLAGS)
%C%_test_tokenizer_LDADD = $(MODEL_LIBS) $(JANSSON_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_tokenizer_bpe
%C%_test_tokenizer_bpe_SOURCES = %D%/test_tokenizer_bpe.c
%C%_test_tokenizer_bpe_CFLAGS = $(UNIT_CFLAGS) $(JANSSON_CFLAGS)
%C%_test_tokenizer_bpe_LDADD = $(MODEL_LIBS) $(JANSSON_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_gguf_write
%C%_test_gguf_write_SOURCES = %D%/test_gguf_write.c
%C%_test_gguf_write_CFLAGS = $(UNIT_CFLAGS)
%C%_test_gguf_write_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_model
%C%_test_model_SOURCES = %D%/test_model.c $(TINY_MODEL)
%C%_test_model_CFLAGS = $(UNIT_CFLAGS)
%C%_test_model_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_slice
%C%_test_slice_SOURCES = %D%/test_slice.c %D%/machine.c %D%/machine.h $(TINY_MODEL)
%C%_test_slice_CFLAGS = $(UNIT_CFLAGS)
%C%_test_slice_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_sums
%C%_test_sums_SOURCES = %D%/test_sums.c
%C%_test_sums_CFLAGS = $(UNIT_CFLAGS)
%C%_test_sums_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_cuts
%C%_test_cuts_SOURCES = %D%/test_cuts.c $(TINY_MODEL)
%C%_test_cuts_CFLAGS = $(UNIT_CFLAGS)
%C%_test_cuts_LDADD = $(MODEL_LIBS) $(CMOCKA_LIBS)

# ---- partition

UNIT_TESTS += %D%/test_plan
%C%_test_plan_SOURCES = %D%/test_plan.c
%C%_test_plan_CFLAGS = $(UNIT_CFLAGS)
%C%_test_plan_LDADD = $(PART_LIBS) $(CMOCKA_LIBS)
UNIT_TESTS += %D%/test_precision
%C%_test_precision_SOURCES = %D%/test_precision.c %D%/plan_cases.c %D%/plan_cases.h
%C%_test_precision_CFLAGS = $(UNIT_CFLAGS)
%C%_test_precision_LDADD = $(PART_LIBS) $(CMOCKA_LIBS)
UNIT_TESTS += %D%/test_plan_teams
%C%_test_plan_teams_SOURCES = %D%/test_plan_teams.c %D%/plan_cases.c %D%/plan_cases.h
%C%_test_plan_teams_CFLAGS = $(UNIT_CFLAGS)
%C%_test_plan_teams_LDADD = $(PART_LIBS) $(CMOCKA_LIBS)
UNIT_TESTS += %D%/test_plan_published
%C%_test_plan_published_SOURCES = %D%/test_plan_published.c %D%/plan_cases.c %D%/plan_cases.h
%C%_test_plan_published_CFLAGS = $(UNIT_CFLAGS)
%C%_test_plan_published_LDADD = $(PART_LIBS) $(CMOCKA_LIBS)

# ---- net

UNIT_TESTS += %D%/test_config
%C%_test_config_SOURCES = %D%/test_config.c
%C%_test_config_CFLAGS = $(UNIT_CFLAGS)
%C%_test_config_LDADD = $(NET_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_config_print
%C%_test_config_print_SOURCES = %D%/test_config_print.c
%C%_test_config_print_CFLAGS = $(UNIT_CFLAGS)
%C%_test_config_print_LDADD = $(NET_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_document
%C%_test_document_SOURCES = %D%/test_document.c
%C%_test_document_CFLAGS = $(UNIT_CFLAGS)
%C%_test_document_LDADD = $(NET_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_keys
%C%_test_keys_SOURCES = %D%/test_keys.c
%C%_test_keys_CFLAGS = $(UNIT_CFLAGS) $(ZMQ_CFLAGS)
%C%_test_keys_LDADD = $(NET_LIBS) $(CMOCKA_LIBS)

# Sides of a network that live in the test.
NET_LAB = %D%/net_lab.c %D%/net_lab.h

SOCKET_TESTS += %D%/test_net
%C%_test_net_SOURCES = %D%/test_net.c $(NET_LAB)
%C%_test_net_CFLAGS = $(UNIT_CFLAGS) $(ZMQ_CFLAGS)
%C%_test_net_LDADD = $(NET_LIBS) $(CMOCKA_LIBS)

SOCKET_TESTS += %D%/test_net_hostile
%C%_test_net_hostile_SOURCES = %D%/test_net_hostile.c $(NET_LAB)
%C%_test_net_hostile_CFLAGS = $(UNIT_CFLAGS) $(ZMQ_CFLAGS)
%C%_test_net_hostile_LDADD = $(NET_LIBS) $(CMOCKA_LIBS)

SOCKET_TESTS += %D%/test_net_keys
%C%_test_net_keys_SOURCES = %D%/test_net_keys.c $(NET_LAB)
%C%_test_net_keys_CFLAGS = $(UNIT_CFLAGS) $(ZMQ_CFLAGS)
%C%_test_net_keys_LDADD = $(NET_LIBS) $(CMOCKA_LIBS)

SOCKET_TESTS += %D%/test_net_lives
%C%_test_net_lives_SOURCES = %D%/test_net_lives.c $(NET_LAB)
%C%_test_net_lives_CFLAGS = $(UNIT_CFLAGS) $(ZMQ_CFLAGS)
%C%_test_net_lives_LDADD = $(NET_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_wire
%C%_test_wire_SOURCES = %D%/test_wire.c %D%/wire_sample.c %D%/wire_sample.h
%C%_test_wire_CFLAGS = $(UNIT_CFLAGS)
%C%_test_wire_LDADD = $(NET_LIBS) $(CMOCKA_LIBS)

# ---- worker

STORE_FIXTURE = %D%/store_fixture.c %D%/store_fixture.h

UNIT_TESTS += %D%/test_measure
%C%_test_measure_SOURCES = %D%/test_measure.c $(MAKE_MODEL)
%C%_test_measure_CFLAGS = $(UNIT_CFLAGS)
%C%_test_measure_LDADD = $(WORKER_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_readings
%C%_test_readings_SOURCES = %D%/test_readings.c %D%/fake_root.c %D%/fake_root.h
%C%_test_readings_CFLAGS = $(UNIT_CFLAGS)
%C%_test_readings_LDADD = $(WORKER_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_resources
%C%_test_resources_SOURCES = %D%/test_resources.c %D%/fake_root.c %D%/fake_root.h
%C%_test_resources_CFLAGS = $(UNIT_CFLAGS)
%C%_test_resources_LDADD = $(WORKER_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_store
%C%_test_store_SOURCES = %D%/test_store.c $(STORE_FIXTURE)
%C%_test_store_CFLAGS = $(UNIT_CFLAGS)
%C%_test_store_LDADD = $(WORKER_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_ring
%C%_test_ring_SOURCES = %D%/test_ring.c
%C%_test_ring_CFLAGS = $(UNIT_CFLAGS)
%C%_test_ring_LDADD = $(WORKER_LIBS) $(CMOCKA_LIBS)

SOCKET_TESTS += %D%/test_team
%C%_test_team_SOURCES = %D%/test_team.c $(TINY_MODEL) $(NET_LAB)
%C%_test_team_CFLAGS = $(UNIT_CFLAGS) $(ZMQ_CFLAGS)
%C%_test_team_LDADD = $(WORKER_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_store_crash
%C%_test_store_crash_SOURCES = %D%/test_store_crash.c $(STORE_FIXTURE)
%C%_test_store_crash_CFLAGS = $(UNIT_CFLAGS)
%C%_test_store_crash_LDADD = $(WORKER_LIBS) $(CMOCKA_LIBS)

# ---- coordinator

UNIT_TESTS += %D%/test_journal
%C%_test_journal_SOURCES = %D%/test_journal.c
%C%_test_journal_CFLAGS = $(UNIT_CFLAGS)
%C%_test_journal_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_manifest
%C%_test_manifest_SOURCES = %D%/test_manifest.c $(MAKE_MODEL)
%C%_test_manifest_CFLAGS = $(UNIT_CFLAGS)
%C%_test_manifest_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_profile
%C%_test_profile_SOURCES = %D%/test_profile.c $(MAKE_MODEL)
%C%_test_profile_CFLAGS = $(UNIT_CFLAGS)
%C%_test_profile_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_explain
%C%_test_explain_SOURCES = %D%/test_explain.c $(MAKE_MODEL)
%C%_test_explain_CFLAGS = $(UNIT_CFLAGS)
%C%_test_explain_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

COORD_FIXTURE = %D%/coord_fixture.c %D%/coord_fixture.h

UNIT_TESTS += %D%/test_moves
%C%_test_moves_SOURCES = %D%/test_moves.c $(COORD_FIXTURE)
%C%_test_moves_CFLAGS = $(UNIT_CFLAGS)
%C%_test_moves_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_teams
%C%_test_teams_SOURCES = %D%/test_teams.c $(COORD_FIXTURE)
%C%_test_teams_CFLAGS = $(UNIT_CFLAGS)
%C%_test_teams_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_watch
%C%_test_watch_SOURCES = %D%/test_watch.c
%C%_test_watch_CFLAGS = $(UNIT_CFLAGS)
%C%_test_watch_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_policy
%C%_test_policy_SOURCES = %D%/test_policy.c
%C%_test_policy_CFLAGS = $(UNIT_CFLAGS)
%C%_test_policy_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_price
%C%_test_price_SOURCES = %D%/test_price.c
%C%_test_price_CFLAGS = $(UNIT_CFLAGS)
%C%_test_price_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_reader
%C%_test_reader_SOURCES = %D%/test_reader.c $(TINY_MODEL)
%C%_test_reader_CFLAGS = $(UNIT_CFLAGS)
%C%_test_reader_LDADD = $(COORD_LIBS) $(CMOCKA_LIBS)

# ---- client

UNIT_TESTS += %D%/test_batch
%C%_test_batch_SOURCES = %D%/test_batch.c
%C%_test_batch_CFLAGS = $(UNIT_CFLAGS) $(JANSSON_CFLAGS)
%C%_test_batch_LDADD = $(CLI_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_picture
%C%_test_picture_SOURCES = %D%/test_picture.c
%C%_test_picture_CFLAGS = $(UNIT_CFLAGS) $(JANSSON_CFLAGS)
%C%_test_picture_LDADD = $(CLI_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_top
%C%_test_top_SOURCES = %D%/test_top.c
%C%_test_top_CFLAGS = $(UNIT_CFLAGS) $(JANSSON_CFLAGS)
%C%_test_top_LDADD = $(CLI_LIBS) $(CMOCKA_LIBS)

UNIT_TESTS += %D%/test_options
%C%_test_options_SOURCES = %D%/test_options.c
%C%_test_options_CFLAGS = $(UNIT_CFLAGS) $(JANSSON_CFLAGS)
%C%_test_options_LDADD = $(CLI_LIBS) $(CMOCKA_LIBS)
