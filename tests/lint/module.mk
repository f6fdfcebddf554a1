# Boundaries and pages, checked by script. A sanitizer puts symbols of its own into every object, so
# such a build leaves these to the plain one.
LINT_TESTS = \
	%D%/distribution.sh \
	%D%/headers.sh \
	%D%/includes.sh \
	%D%/pages.sh \
	%D%/programs.sh \
	%D%/shell.sh \
	%D%/symbols.sh \
	%D%/text.sh \
	%D%/units.sh

if !SANITIZE
TESTS += $(LINT_TESTS)
endif
EXTRA_DIST += $(LINT_TESTS) %D%/lib.sh
