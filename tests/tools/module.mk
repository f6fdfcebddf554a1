# Programs and code that tests and benches make their input with.
MAKE_MODEL = %D%/make_model.c %D%/make_blocks.c %D%/make_model.h

check_PROGRAMS += %D%/make_model
%C%_make_model_SOURCES = %D%/make_model_main.c $(MAKE_MODEL)
%C%_make_model_LDADD = $(MODEL_LIBS) -lm

EXTRA_DIST += %D%/copy_tree.sh
