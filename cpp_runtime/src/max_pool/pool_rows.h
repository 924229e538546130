// Max pooling of some rows of windows of some planes: what the operator and the fused pooling
// share.
#ifndef LCNN_SRC_MAX_POOL_POOL_ROWS_H_
#define LCNN_SRC_MAX_POOL_POOL_ROWS_H_

#include <cstdint>

#include "kernels/kernels.h"
#include "lcnn/max_pool.h"

namespace lcnn {

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

}  // namespace lcnn

#endif  // LCNN_SRC_MAX_POOL_POOL_ROWS_H_
