# The arithmetic: scalar definitions, and one archive per instruction set with flags of its own, so
# that no such flag reaches portable code. table.c refers to the archives that are built, by
# SHOAL_WITH_*.
noinst_LIBRARIES += %D%/libkern.a
KERNEL_LIBS += %D%/libkern.a
EXTRA_DIST += %D%/kernels.def %D%/sets.def %D%/types.def
%C%_libkern_a_SOURCES = \
	%D%/kernels.h \
	%D%/internal.h \
	%D%/fast.c \
	%D%/fp.c \
	%D%/pool.c \
	%D%/table.c \
	%D%/table_hash.c \
	%D%/generic/attend.c \
	%D%/generic/exp.c \
	%D%/generic/gelu_mul.c \
	%D%/generic/half.c \
	%D%/generic/kv_store.c \
	%D%/generic/math64.c \
	%D%/generic/matmul_float.c \
	%D%/generic/matmul_k.c \
	%D%/generic/matmul_min.c \
	%D%/generic/matmul_scale.c \
	%D%/generic/matrix_row.c \
	%D%/generic/pack.c \
	%D%/generic/product.c \
	%D%/generic/product.h \
	%D%/generic/quantise.c \
	%D%/generic/rms_norm.c \
	%D%/generic/rope.c \
	%D%/generic/silu_mul.c \
	%D%/generic/types.c \
	%D%/generic/unit.c

if WITH_SSE4
noinst_LIBRARIES += %D%/libkern_sse4.a
KERNEL_LIBS += %D%/libkern_sse4.a
%C%_libkern_sse4_a_CFLAGS = $(AM_CFLAGS) $(SSE4_CFLAGS)
%C%_libkern_sse4_a_SOURCES = \
	%D%/sse4/sse4.h \
	%D%/sse4/product.h \
	%D%/sse4/attend.c \
	%D%/sse4/gelu_mul.c \
	%D%/sse4/matmul_blocks.c \
	%D%/sse4/matmul_float.c \
	%D%/sse4/quantise.c \
	%D%/sse4/rms_norm.c \
	%D%/sse4/silu_mul.c
endif

if WITH_AVX2
noinst_LIBRARIES += %D%/libkern_avx2.a
KERNEL_LIBS += %D%/libkern_avx2.a
%C%_libkern_avx2_a_CFLAGS = $(AM_CFLAGS) $(AVX2_CFLAGS)
%C%_libkern_avx2_a_SOURCES = \
	%D%/avx2/avx2.h \
	%D%/avx2/blocks.h \
	%D%/avx2/product.h \
	%D%/avx2/attend.c \
	%D%/avx2/gelu_mul.c \
	%D%/avx2/kv_store.c \
	%D%/avx2/matmul_float.c \
	%D%/avx2/matmul_q4.c \
	%D%/avx2/matmul_q5.c \
	%D%/avx2/matmul_q6_k.c \
	%D%/avx2/matmul_q8.c \
	%D%/avx2/quantise.c \
	%D%/avx2/rms_norm.c \
	%D%/avx2/silu_mul.c \
	%D%/avx2/unit.c
endif

if WITH_AVX512
noinst_LIBRARIES += %D%/libkern_avx512.a
KERNEL_LIBS += %D%/libkern_avx512.a
%C%_libkern_avx512_a_CFLAGS = $(AM_CFLAGS) $(AVX512_CFLAGS)
%C%_libkern_avx512_a_SOURCES = \
	%D%/avx512/attend.h \
	%D%/avx512/avx512.h \
	%D%/avx512/blocks.h \
	%D%/avx512/nibbles.h \
	%D%/avx512/sink.h \
	%D%/avx512/attend.c \
	%D%/avx512/gelu_mul.c \
	%D%/avx512/kv_store.c \
	%D%/avx512/matmul_float.c \
	%D%/avx512/matmul_iq4_nl.c \
	%D%/avx512/matmul_q4_0.c \
	%D%/avx512/matmul_q4_1.c \
	%D%/avx512/matmul_q4_k.c \
	%D%/avx512/matmul_q5_0.c \
	%D%/avx512/matmul_q5_1.c \
	%D%/avx512/matmul_q5_k.c \
	%D%/avx512/matmul_q6_k.c \
	%D%/avx512/matmul_q8_0.c \
	%D%/avx512/quantise.c \
	%D%/avx512/rms_norm.c \
	%D%/avx512/silu_mul.c \
	%D%/avx512/unit.c
endif

if WITH_NEON
noinst_LIBRARIES += %D%/libkern_neon.a
KERNEL_LIBS += %D%/libkern_neon.a
%C%_libkern_neon_a_CFLAGS = $(AM_CFLAGS) $(NEON_CFLAGS)
%C%_libkern_neon_a_SOURCES = \
	%D%/neon/attend.h \
	%D%/neon/blocks.h \
	%D%/neon/dots.h \
	%D%/neon/neon.h \
	%D%/neon/attend.c \
	%D%/neon/gelu_mul.c \
	%D%/neon/kv_store.c \
	%D%/neon/matmul_float.c \
	%D%/neon/matmul_k.c \
	%D%/neon/matmul_q4.c \
	%D%/neon/matmul_q5.c \
	%D%/neon/matmul_q8_0.c \
	%D%/neon/quantise.c \
	%D%/neon/rms_norm.c \
	%D%/neon/silu_mul.c \
	%D%/neon/unit.c
endif

if WITH_NEONDOT
noinst_LIBRARIES += %D%/libkern_neondot.a
KERNEL_LIBS += %D%/libkern_neondot.a
%C%_libkern_neondot_a_CFLAGS = $(AM_CFLAGS) $(NEONDOT_CFLAGS)
%C%_libkern_neondot_a_SOURCES = \
	%D%/neon-dotprod/dots.h \
	%D%/neon-dotprod/sdot.h \
	%D%/neon-dotprod/attend.c \
	%D%/neon-dotprod/matmul_k.c \
	%D%/neon-dotprod/matmul_q4.c \
	%D%/neon-dotprod/matmul_q5.c \
	%D%/neon-dotprod/matmul_q8_0.c
endif

if WITH_NEONI8MM
noinst_LIBRARIES += %D%/libkern_neoni8mm.a
KERNEL_LIBS += %D%/libkern_neoni8mm.a
%C%_libkern_neoni8mm_a_CFLAGS = $(AM_CFLAGS) $(NEONI8MM_CFLAGS)
%C%_libkern_neoni8mm_a_SOURCES = \
	%D%/neon-i8mm/dots.h \
	%D%/neon-i8mm/matmul_k.c \
	%D%/neon-i8mm/matmul_q4.c \
	%D%/neon-i8mm/matmul_q5.c \
	%D%/neon-i8mm/matmul_q8_0.c
endif
