// Max pooling with given kernels: what the operator and the pooling inside of others share.
#ifndef LCNN_SRC_MAX_POOL_POOL_ROWS_H_
#define LCNN_SRC_MAX_POOL_POOL_ROWS_H_

#include <cstdint>

#include "kernels/f32_pool.h"
#include "lcnn/max_pool.h"

namespace lcnn {

// Some rows of windows of some planes.
struct PooledRows {
  const float* x;  // the rows of the first plane that are at hand
  int64_t x_plane;
  int64_t in_height;  // rows at hand; windows may reach beyond, which adds nothing
  int64_t in_width;
  int64_t top;  // of the first windows, among the rows at hand; may be negative
  float* y;
  int64_t y_plane;
  int64_t out_height;  // rows of windows
  int64_t out_width;
  int64_t planes;
};

void PoolRows(const MaxPoolShape& shape, const PoolKernels& kernels, const PooledRows& rows);

// Whole planes, in parallel if there are many pixels.
struct PooledPlanes {
  int64_t planes;
  int64_t in_height;
  int64_t in_width;
  const float* x;
  float* y;
};

// Throws std::invalid_argument when the input is smaller than the window.
void PoolPlanes(const MaxPoolShape& shape, const PoolKernels& kernels, const PooledPlanes& planes,
                const ParallelFor& parallel_for);

}  // namespace lcnn

#endif  // LCNN_SRC_MAX_POOL_POOL_ROWS_H_
