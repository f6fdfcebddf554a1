# Real processes on this machine. A test with a cluster has it to itself, even under make -j: tests/tap.sh
# holds a lock around it, so no order between logs is needed here.
INTEGRATION_TESTS = \
	%D%/chat.sh \
	%D%/cluster.sh \
	%D%/conversation.sh \
	%D%/failures.sh \
	%D%/files.sh \
	%D%/hostile.sh \
	%D%/idle.sh \
	%D%/kills.sh \
	%D%/lab.sh \
	%D%/local.sh \
	%D%/models.sh \
	%D%/migrate.sh \
	%D%/teams.sh \
	%D%/one_text.sh \
	%D%/pipeline.sh \
	%D%/policy.sh \
	%D%/prefetch.sh \
	%D%/plan.sh \
	%D%/quickstart.sh \
	%D%/reference.sh \
	%D%/reload.sh \
	%D%/restart.sh \
	%D%/reuse.sh \
	%D%/rings.sh \
	%D%/store.sh \
	%D%/watch.sh
if !SANITIZE_THREAD
TESTS += $(INTEGRATION_TESTS)
endif
EXTRA_DIST += $(INTEGRATION_TESTS) %D%/cluster_lib.sh

# What a shell cannot do: give a file a chat template, hold a conversation, compare JSON with expected values,
# speak TCP, and look at a terminal's screen.
check_PROGRAMS += %D%/add_template %D%/converse %D%/expect %D%/rawtcp %D%/screen
%C%_add_template_SOURCES = %D%/add_template.c
%C%_add_template_LDADD = $(MODEL_LIBS)
%C%_expect_SOURCES = %D%/expect.c
%C%_expect_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
%C%_expect_LDADD = $(JANSSON_LIBS)
%C%_converse_SOURCES = %D%/converse.c
%C%_converse_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
%C%_converse_LDADD = $(CLI_LIBS)
%C%_rawtcp_SOURCES = %D%/rawtcp.c
%C%_screen_SOURCES = %D%/screen.c
