# All tests print TAP and run through one driver; what they need to know comes as environment.
TEST_EXTENSIONS = .sh
TAP_DRIVER = env AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
LOG_DRIVER = $(TAP_DRIVER)
LOG_COMPILER = $(SHELL) $(top_srcdir)/tests/tap.sh
SH_LOG_DRIVER = $(TAP_DRIVER)
SH_LOG_COMPILER = $(LOG_COMPILER) $(SHELL)
CLEANFILES += tests/running.lock tests/running.*.lock

# SHOAL_REFERENCE is a folder of expected values that is not part of the distribution; without it the
# tests that need it are skipped.
AM_TESTS_ENVIRONMENT = \
	CMOCKA_MESSAGE_OUTPUT=TAP; export CMOCKA_MESSAGE_OUTPUT; \
	SHOAL_SRCDIR='$(abs_top_srcdir)'; export SHOAL_SRCDIR; \
	SHOAL_BUILDDIR='$(abs_top_builddir)'; export SHOAL_BUILDDIR; \
	SHOAL_REFERENCE="$${SHOAL_REFERENCE-$(abs_top_srcdir)/../shared/reference}"; \
	export SHOAL_REFERENCE; \
	UBSAN_OPTIONS=print_stacktrace=1:$$UBSAN_OPTIONS; export UBSAN_OPTIONS; \
	CC='$(CC)'; export CC; \
	NM='$(NM)'; export NM; \
	READELF='$(READELF)'; export READELF; \
	LINT_CFLAGS='$(AM_CPPFLAGS) $(SHOAL_CFLAGS)'; export LINT_CFLAGS;

EXTRA_DIST += %D%/data %D%/tap.sh

include tests/tools/module.mk
include tests/unit/module.mk
include tests/sim/module.mk
include tests/fuzz/module.mk
include tests/integration/module.mk
include tests/lint/module.mk
include tests/bench/module.mk

# Without CMocka there is nothing honest to report.
check-local:
if !HAVE_CMOCKA
	@echo "make check needs CMocka 1.1 (Debian: libcmocka-dev); install it and configure again" >&2
	@false
endif
