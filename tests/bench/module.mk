# Benches print CSV. They are built by `make bench` only and run by hand.
BENCHES =
EXTRA_PROGRAMS += $(BENCHES)
CLEANFILES += $(BENCHES)

.PHONY: bench
bench: $(BENCHES) tests/tools/make_model$(EXEEXT) shoal$(EXEEXT)

EXTRA_DIST += %D%/arm_mca.sh %D%/checkpoint.sh %D%/drain.sh %D%/engine.sh %D%/lab.sh %D%/lab_lib.sh %D%/peers.sh %D%/pipeline.sh %D%/planner.sh %D%/pressure.sh

BENCHES += %D%/bench_matmul
%C%_bench_matmul_SOURCES = %D%/bench_matmul.c
%C%_bench_matmul_CFLAGS = $(AM_CFLAGS) $(BLAS_CFLAGS)
%C%_bench_matmul_LDADD = $(KERN_LIBS) $(BLAS_LIBS)

BENCHES += %D%/bench_read
%C%_bench_read_SOURCES = %D%/bench_read.c
%C%_bench_read_LDADD = $(KERN_LIBS)

BENCHES += %D%/bench_exchange
%C%_bench_exchange_SOURCES = %D%/bench_exchange.c $(NET_LAB)
%C%_bench_exchange_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(ZMQ_CFLAGS)
%C%_bench_exchange_LDADD = $(WORKER_LIBS) $(CMOCKA_LIBS)
