# The simulator: the only program that links both cores. SIM_SEED=N replays one world.
UNIT_TESTS += %D%/test_sim
%C%_test_sim_SOURCES = \
	%D%/test_sim.c \
	%D%/sim.h \
	%D%/client.c \
	%D%/compute.c \
	%D%/coordinator.c \
	%D%/fault.c \
	%D%/link.c \
	%D%/planner.c \
	%D%/sim.c \
	%D%/stub.c \
	%D%/worker.c \
	%D%/world.c
%C%_test_sim_CFLAGS = $(UNIT_CFLAGS)
%C%_test_sim_LDADD = coordinator/libcoord.a worker/libworker.a $(PART_LIBS) $(MODEL_LIBS) $(NET_LIBS) \
	$(CMOCKA_LIBS)

# Long forms: planted bugs, many worlds.
EXTRA_DIST += %D%/planted.sh %D%/soak.sh
