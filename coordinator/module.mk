noinst_LIBRARIES += %D%/libcoord.a
%C%_libcoord_a_SOURCES = \
	%D%/coordinator.h \
	%D%/bulk.c \
	%D%/core.c %D%/core_checkpoint.c %D%/core_forecast.c %D%/core_kept.c %D%/core_measure.c %D%/core_move.c %D%/core_plan.c %D%/core_policy.c %D%/core_price.c %D%/core_private.h %D%/core_request.c %D%/core_slot.c %D%/core_status.c %D%/core_watch.c \
	%D%/explain.c \
	%D%/journal.c %D%/journal.h \
	%D%/manifest.c \
	%D%/move_cost.c \
	%D%/planning.c \
	%D%/precision.c \
	%D%/profile_ini.c \
	%D%/reader.c \
	%D%/records.c \
	%D%/shard.c \
	%D%/shell.c %D%/shell.h
