// Max pooling in float32.
#ifndef LCNN_SRC_KERNELS_F32_POOL_H_
#define LCNN_SRC_KERNELS_F32_POOL_H_

#include "kernels/lanes.h"

namespace lcnn {

// Some rows of windows of one plane: y[row * y_pitch + i] is the largest value in the rows
// [top + row * row_stride, ... + row_kernel) of X, as far as they lie in [0, x_rows), and the
// columns [i * stride, i * stride + kernel) of the buffer. There, `columns` ones from `before` on
// are the largest of X's columns from x on and are written here; the others are the border, set by
// the caller. One row of windows takes buffer_pitch floats of the buffer.
struct PoolTask {
  const float* x;
  int64_t x_pitch;
  int64_t x_rows;
  int64_t top;
  int64_t row_stride;
  int64_t row_kernel;
  int64_t rows;  // of windows
  int64_t columns;
  int64_t before;
  float* buffer;
  int64_t buffer_pitch;
  int64_t kernel;
  int64_t stride;
  int64_t outputs;
  float* y;
  int64_t y_pitch;
};

struct PoolKernels {
  void (*pool)(const PoolTask&);
};

#define LCNN_KERNELS(needs, suffix) extern const PoolKernels kPool##suffix;
#include "kernels/f32_pool.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_F32_POOL_H_
