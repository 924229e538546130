// Max pooling of dense NCHW float32 planes.
#ifndef LCNN_MAX_POOL_H_
#define LCNN_MAX_POOL_H_

#include <cstdint>

#include "lcnn/types.h"

namespace lcnn {

// Largest kernel in one direction.
constexpr int64_t kMaxPoolKernel = 256;

// Dilations are 1 and paddings smaller than the kernel, so that every window holds a pixel.
struct MaxPoolShape {
  Axis height;
  Axis width;
};

// Throws std::invalid_argument with the value seen, `prefix` before its name, and the rule.
void CheckMaxPool(const MaxPoolShape& shape, const char* prefix = "");

// Y (planes, OutputExtent of the heights, of the widths) from X (planes, in_height, in_width), both
// extents positive. Nothing outside the two buffers is read or written. Whether a NaN or another
// value of its window is the larger one is not defined.
void MaxPool(const MaxPoolShape& shape, Isa isa, int64_t planes, int64_t in_height,
             int64_t in_width, const float* x, float* y, const ParallelFor& parallel_for);

}  // namespace lcnn

#endif  // LCNN_MAX_POOL_H_
