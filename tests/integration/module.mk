# Real processes on this machine: the longest first, so that make -j has short ones to share out in the end, and
# then those that judge by the clock, which tests/tap.sh lets run alone (`# Alone:`).
INTEGRATION_TESTS = \
	%D%/reference.sh \
	%D%/one_text.sh \
	%D%/local.sh \
	%D%/teams.sh \
	%D%/store.sh \
	%D%/models.sh \
	%D%/failures.sh \
	%D%/cluster.sh \
	%D%/migrate.sh \
	%D%/kills.sh \
	%D%/hostile.sh \
	%D%/soak.sh \
	%D%/conversation.sh \
	%D%/rings.sh \
	%D%/watch.sh \
	%D%/restart.sh \
	%D%/prefetch.sh \
	%D%/checkpoint.sh \
	%D%/reload.sh \
	%D%/plan.sh \
	%D%/precision.sh \
	%D%/reuse.sh \
	%D%/chat.sh \
	%D%/files.sh \
	%D%/idle.sh \
	%D%/lab.sh \
	%D%/pipeline.sh \
	%D%/policy.sh \
	%D%/quickstart.sh
if !SANITIZE_THREAD
TESTS += $(INTEGRATION_TESTS)
endif
EXTRA_DIST += $(INTEGRATION_TESTS) %D%/cluster_lib.sh %D%/lab_lib.sh

# What a shell cannot do: give a file a chat template, hold a conversation, compare JSON with expected values,
# speak TCP, and look at a terminal's screen.
check_PROGRAMS += %D%/add_template %D%/converse %D%/expect %D%/rawtcp %D%/screen
%C%_add_template_SOURCES = %D%/add_template.c
%C%_add_template_LDADD = $(MODEL_LIBS)
%C%_expect_SOURCES = %D%/expect.c
%C%_expect_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
%C%_expect_LDADD = $(MODEL_LIBS) $(JANSSON_LIBS)
%C%_converse_SOURCES = %D%/converse.c
%C%_converse_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
%C%_converse_LDADD = $(CLI_LIBS)
%C%_rawtcp_SOURCES = %D%/rawtcp.c
%C%_screen_SOURCES = %D%/screen.c
