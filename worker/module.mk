noinst_LIBRARIES += %D%/libworker.a
%C%_libworker_a_SOURCES = \
	%D%/worker.h \
	%D%/core.c %D%/core_move.c %D%/core_pass.c %D%/core_private.h %D%/core_ring.c \
	%D%/engine.c %D%/engine.h \
	%D%/exchange.c %D%/exchange.h %D%/exchange_time.c \
	%D%/linktest.c %D%/linktest.h \
	%D%/loader.c %D%/loader.h \
	%D%/profile.c \
	%D%/readings.c %D%/readings.h \
	%D%/resources.c %D%/resources.h \
	%D%/shell.c %D%/shell.h %D%/shell_act.c %D%/shell_load.c %D%/shell_profile.c %D%/shell_stock.c \
	%D%/store.c %D%/store.h %D%/store_index.c %D%/store_packs.c %D%/store_private.h \
	%D%/team.c %D%/team.h
