# Files, tokenizers, architectures, pieces and the forward pass over a slice.
noinst_LIBRARIES += %D%/libmodel.a
%C%_libmodel_a_SOURCES = \
	%D%/model.h %D%/model_private.h %D%/gguf.h %D%/index.h %D%/tokenizer.h %D%/quantise.h \
	%D%/gguf.c %D%/gguf_parts.c %D%/gguf_type.c %D%/gguf_write.c %D%/index.c \
	%D%/quantise.c %D%/quantise_blocks.c %D%/quantise_rows.c %D%/quantise_types.c \
	%D%/tokenizer.c %D%/tokenizer_spm.c %D%/tokenizer_bpe.c \
	%D%/tokenizer_join.c %D%/tokenizer_pre.c %D%/tokenizer_special.c \
	%D%/arch.c %D%/shape.c %D%/piece.c %D%/slice.c \
	%D%/exec.c %D%/kv.c %D%/layout.c %D%/step.c %D%/normed.c %D%/attention.c %D%/ffn.c %D%/output.c %D%/wire.c \
	%D%/sampler.c %D%/text.c %D%/chat.c
