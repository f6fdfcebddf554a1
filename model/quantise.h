/* Private to model/: encoders of quantised blocks. */
#ifndef MODEL_QUANTISE_H
#define MODEL_QUANTISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* x[32] as one block of Q8_0 (34 bytes) or Q4_0 (18), x[256] as one of Q4_K (144) or Q6_K (210).
 * x is finite. False where the block's scale is beyond what F16 holds; the block is then not
 * written. */
typedef bool model_quantise_block(const float *x, uint8_t *block);
model_quantise_block model_quantise_q8_0, model_quantise_q4_0;
model_quantise_block model_quantise_q4_k, model_quantise_q6_k;

#endif
