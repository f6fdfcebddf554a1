# The `shoal` command: a library of everything but main, so that tests link it, and the program.
noinst_LIBRARIES += %D%/libcli.a
%C%_libcli_a_SOURCES = \
	%D%/client.h %D%/options.def \
	%D%/answer.c \
	%D%/ask_status.c \
	%D%/batch.c \
	%D%/bench.c \
	%D%/chat.c \
	%D%/cluster.c \
	%D%/config.c \
	%D%/drain.c \
	%D%/generate.c \
	%D%/inspect.c \
	%D%/json.c \
	%D%/keygen.c \
	%D%/load.c \
	%D%/local.c \
	%D%/logits.c \
	%D%/options.c \
	%D%/perplexity.c \
	%D%/plan.c %D%/plan.h \
	%D%/plan_card.c %D%/plan_drawing.h \
	%D%/plan_precision.c \
	%D%/plan_svg.c \
	%D%/plan_text.c \
	%D%/quantize.c \
	%D%/remote.c \
	%D%/request.c \
	%D%/status.c \
	%D%/svg.c %D%/svg.h \
	%D%/terminal.c \
	%D%/tokenize.c \
	%D%/top.c %D%/top.h \
	%D%/top_screen.c \
	%D%/weights.c
%C%_libcli_a_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(NCURSES_CFLAGS)

CLI_LIBS = client/libcli.a $(COORD_LIBS) $(JANSSON_LIBS) $(NCURSES_LIBS)

bin_PROGRAMS += shoal
shoal_SOURCES = %D%/main.c
shoal_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
shoal_LDADD = $(CLI_LIBS)
