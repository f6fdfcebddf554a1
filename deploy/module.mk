# Scripts for people and for continuous integration; they are run from the tree, not installed.
EXTRA_DIST += \
	%D%/cluster.sh \
	%D%/lab.sh \
	%D%/node.sh \
	%D%/packages.sh \
	%D%/quickstart.sh \
	%D%/selftest.sh \
	%D%/systemd/shoal-coordinator.service \
	%D%/systemd/shoal-worker@.service

# The laboratory's links and quotas (lab.sh).
noinst_PROGRAMS += %D%/linkemu %D%/linkprobe %D%/quotatick
%C%_linkemu_SOURCES = %D%/linkemu.c
%C%_linkprobe_SOURCES = %D%/linkprobe.c
%C%_quotatick_SOURCES = %D%/quotatick.c
