# Scripts for people and for continuous integration; they are run from the tree, not installed.
EXTRA_DIST += \
	%D%/packages.sh \
	%D%/quickstart.sh \
	%D%/selftest.sh
