// Max pooling in terms of Vec: included by one file per instruction set, after its vec_*.h.
#ifndef LCNN_SRC_KERNELS_F32_POOL_BODY_H_
#define LCNN_SRC_KERNELS_F32_POOL_BODY_H_

#include "kernels/f32_pool.h"

namespace {

// Calls body(i, count) for the vectors of [0, size): whole ones have kLanes as a constant, which
// spares them the masks.
template <class Body>
inline void ForVectors(int64_t size, const Body& body) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= size; i += Vec::kLanes) body(i, Vec::kLanes);
  if (i < size) body(i, static_cast<int>(size - i));
}

inline Vec LoadUpTo(const float* p, int count) {
  return count == Vec::kLanes ? Vec::Load(p) : Vec::LoadFirst(p, count);
}

inline void StoreUpTo(Vec v, float* p, int count) {
  count == Vec::kLanes ? v.Store(p) : v.StoreFirst(p, count);
}

// The largest value of every column in the rows of the window.
void MaxOfRows(const lcnn::PoolTask& t, int64_t row) {
  const int64_t top = t.top + row * t.row_stride;
  const int64_t first = top < 0 ? 0 : top;
  const int64_t end = top + t.row_kernel < t.x_rows ? top + t.row_kernel : t.x_rows;
  float* const columns = t.buffer + row * t.buffer_pitch + t.before;
  ForVectors(t.columns, [&](int64_t i, int count) {
    const float* x = t.x + first * t.x_pitch + i;
    Vec most = LoadUpTo(x, count);
    for (int64_t r = first + 1; r < end; ++r) {
      x += t.x_pitch;
      most = Max(most, LoadUpTo(x, count));
    }
    StoreUpTo(most, columns + i, count);
  });
}

template <int STRIDE>
inline Vec LoadStepped(const float* p, int count) {
  return STRIDE == 1 ? LoadUpTo(p, count) : Vec::LoadAlternate(p, count);
}

template <int STRIDE>
void MaxOfColumns(const lcnn::PoolTask& t, const float* columns, float* y) {
  ForVectors(t.outputs, [&](int64_t i, int count) {
    const float* const window = columns + i * STRIDE;
    Vec most = LoadStepped<STRIDE>(window, count);
    for (int64_t c = 1; c < t.kernel; ++c) most = Max(most, LoadStepped<STRIDE>(window + c, count));
    StoreUpTo(most, y + i, count);
  });
}

void MaxOfAnyColumns(const lcnn::PoolTask& t, const float* columns, float* y) {
  for (int64_t i = 0; i < t.outputs; ++i) {
    const float* const window = columns + i * t.stride;
    float most = window[0];
    for (int64_t c = 1; c < t.kernel; ++c) most = most < window[c] ? window[c] : most;
    y[i] = most;
  }
}

// Columns after all rows: a load of what was just stored in other pieces waits for the stores.
void Pool(const lcnn::PoolTask& task) {
  const lcnn::PoolTask t = task;  // a local that no store through float* can change
  const auto columns_of = t.stride == 1   ? MaxOfColumns<1>
                          : t.stride == 2 ? MaxOfColumns<2>
                                          : MaxOfAnyColumns;
  for (int64_t row = 0; row < t.rows; ++row) MaxOfRows(t, row);
  for (int64_t row = 0; row < t.rows; ++row) {
    columns_of(t, t.buffer + row * t.buffer_pitch, t.y + row * t.y_pitch);
  }
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_F32_POOL_BODY_H_
