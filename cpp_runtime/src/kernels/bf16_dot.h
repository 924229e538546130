// Sums of products of bfloat16 in float32: a tile of pixels times some filters.
//
// As u8_dot.h, with quads of two numbers: sums start at `start`, whose bits are those of a float32,
// and are the values before the residual; scale, bias, zero and residual_zero have no meaning,
// residual_scale is 1. Narrow results are rounded to bfloat16, ties to even, and y_offsets are
// bytes for them. The order of a sum is a kernel's own, and subnormal numbers may count as 0. NaN
// passes the bounds.
#ifndef LCNN_SRC_KERNELS_BF16_DOT_H_
#define LCNN_SRC_KERNELS_BF16_DOT_H_

#include "kernels/u8_dot.h"

namespace lcnn {

#define LCNN_KERNELS(needs, suffix) extern const DotKernels kBfloat16Dot##suffix;
#include "kernels/bf16_dot.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_BF16_DOT_H_
