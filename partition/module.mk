# Placement: cost model, enumeration, and the solver on top of GLPK. Uses common and GLPK (GPLv3), so no
# program that must not link GLPK may link this library.
noinst_LIBRARIES += %D%/libpart.a
%C%_libpart_a_SOURCES = \
	%D%/partition.h \
	%D%/internal.h \
	%D%/kinds.h \
	%D%/algorithms.c \
	%D%/bound.c \
	%D%/check.c \
	%D%/cost.c \
	%D%/couple.c \
	%D%/deal.c \
	%D%/enumerate.c \
	%D%/explain.c \
	%D%/halves.c \
	%D%/kinds.c \
	%D%/milp.c \
	%D%/milp_types.c \
	%D%/precision.c \
	%D%/relax.c \
	%D%/search.c \
	%D%/solve.c \
	%D%/team.c \
	%D%/view.c
