# The floor: errors, spans, memory, log, clock, files, background jobs. Uses libc only.
noinst_LIBRARIES += %D%/libbase.a
%C%_libbase_a_SOURCES = \
	%D%/common.h \
	%D%/arena.c \
	%D%/buf.c \
	%D%/clock.c \
	%D%/errors.c \
	%D%/file.c \
	%D%/jobs.c \
	%D%/log.c \
	%D%/median.c \
	%D%/memory.c \
	%D%/rng.c \
	%D%/span.c
