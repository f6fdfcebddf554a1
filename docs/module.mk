# Pages, installed with the programs, and man pages.
dist_doc_DATA += \
	%D%/arm.md \
	%D%/code.md \
	%D%/configuration.md \
	%D%/fuzz.md \
	%D%/lab.md \
	%D%/measured.md \
	%D%/migration.md \
	%D%/numerics.md \
	%D%/planner.md \
	%D%/protocol.md \
	%D%/restart.md \
	%D%/sim.md \
	%D%/teams.md \
	%D%/uneven6.svg

dist_man1_MANS += \
	%D%/man/shoal.1 \
	%D%/man/shoal-coordinator.1 \
	%D%/man/shoal-worker.1
