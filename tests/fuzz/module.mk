# One program a decoder or parser. Without --enable-fuzz each runs its committed corpus once, as a
# plain test; with it (clang) the same file becomes a libFuzzer program, for example
#   make tests/fuzz/fuzz_gguf && tests/fuzz/fuzz_gguf -max_total_time=60 work/ tests/fuzz/corpus/gguf
# A target needs no CMocka, but its corpus is run by a test like all others.
FUZZ_TARGETS =
if FUZZ
FUZZ_MAIN =
noinst_PROGRAMS += $(FUZZ_TARGETS)
else
FUZZ_MAIN = %D%/run_corpus.c
check_PROGRAMS += $(FUZZ_TARGETS)
TESTS += %D%/corpus.sh
endif
EXTRA_DIST += %D%/corpus.sh %D%/corpus %D%/run_corpus.c %D%/fuzz.sh %D%/planted.sh

FUZZ_TARGETS += %D%/fuzz_gguf
%C%_fuzz_gguf_SOURCES = %D%/fuzz_gguf.c $(FUZZ_MAIN)
%C%_fuzz_gguf_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_gguf_LDADD = $(MODEL_LIBS)

FUZZ_TARGETS += %D%/fuzz_ini
%C%_fuzz_ini_SOURCES = %D%/fuzz_ini.c $(FUZZ_MAIN)
%C%_fuzz_ini_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_ini_LDADD = $(NET_LIBS)

FUZZ_TARGETS += %D%/fuzz_messages
%C%_fuzz_messages_SOURCES = %D%/fuzz_messages.c $(FUZZ_MAIN)
%C%_fuzz_messages_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_messages_LDADD = $(MODEL_LIBS)

FUZZ_TARGETS += %D%/fuzz_sums
%C%_fuzz_sums_SOURCES = %D%/fuzz_sums.c $(FUZZ_MAIN)
%C%_fuzz_sums_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_sums_LDADD = $(MODEL_LIBS)

FUZZ_TARGETS += %D%/fuzz_wire
%C%_fuzz_wire_SOURCES = %D%/fuzz_wire.c $(FUZZ_MAIN)
%C%_fuzz_wire_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_wire_LDADD = $(NET_LIBS)

FUZZ_TARGETS += %D%/fuzz_worker
%C%_fuzz_worker_SOURCES = %D%/fuzz_worker.c %D%/script.h $(FUZZ_MAIN)
%C%_fuzz_worker_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_worker_LDADD = $(WORKER_LIBS)

FUZZ_TARGETS += %D%/fuzz_coordinator
%C%_fuzz_coordinator_SOURCES = %D%/fuzz_coordinator.c %D%/script.h $(FUZZ_MAIN)
%C%_fuzz_coordinator_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_coordinator_LDADD = $(COORD_LIBS)

FUZZ_TARGETS += %D%/fuzz_tokenizer
%C%_fuzz_tokenizer_SOURCES = %D%/fuzz_tokenizer.c $(FUZZ_MAIN)
%C%_fuzz_tokenizer_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_tokenizer_LDADD = $(MODEL_LIBS)

FUZZ_TARGETS += %D%/fuzz_journal
%C%_fuzz_journal_SOURCES = %D%/fuzz_journal.c $(FUZZ_MAIN)
%C%_fuzz_journal_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_journal_LDADD = $(COORD_LIBS)

FUZZ_TARGETS += %D%/fuzz_json
%C%_fuzz_json_SOURCES = %D%/fuzz_json.c $(FUZZ_MAIN)
%C%_fuzz_json_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
%C%_fuzz_json_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_CFLAGS)
%C%_fuzz_json_LDADD = $(CLI_LIBS)
