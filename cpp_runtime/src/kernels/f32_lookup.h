// Stage 2 in float32: the sums of the filters' lists of lookups.
#ifndef LCNN_SRC_KERNELS_F32_LOOKUP_H_
#define LCNN_SRC_KERNELS_F32_LOOKUP_H_

#include "kernels/lanes.h"

namespace lcnn {

// Longest tile, in vectors, of any kernel.
constexpr int kMaxTileVectors = 8;
// Neighbouring filters may share a list: so many, by the place of their kernel in `shared` below.
constexpr int kSharedKernels = 3;
constexpr int kSharedFilters[kSharedKernels] = {2, 4, 8};

// For every filter o in [filter_begin, filter_end) and the n_vectors <= LookupKernel::max_vectors
// vectors p of a tile:
//   y[o * plane + pixel] = a(bias[o] + constant + sum_e coefficients[e] * s[offsets[e] + p] +
//   residual[same place as y])
// with a(v) = clip(v), or v * max(0, min(1, v / 6 + 1 / 2)) where hard_swish is set,
// and e over [entry_begin[o], entry_begin[o + 1]). s must be readable for n_vectors * lanes floats
// from every offset; lanes outside the masks may hold any finite or non-finite value and are not
// stored. NaN passes the activation. Terms are added in stream order in up to four interleaved
// partial sums.
//
// The entries of a filter may come in several calls: the first starts from bias, the others from
// sums[(o - filter_begin) * n_vectors * lanes + p], and all but the last leave their sums there.
// kMaxLanes offsets beyond the last are readable.
//
// Where f filters share a list, list l is that of filters [f * l, f * (l + 1)), as far as they are
// below filter_end: an entry has a coefficient for each of them, one after the other. Then
// filter_begin is a multiple of f, and first and last are set.
struct LookupTask {
  const float* s;
  int64_t filter_begin;
  int64_t filter_end;
  bool first;
  bool last;
  float* sums;  // null when first and last
  const float* bias;
  const int32_t* entry_begin;
  const float* coefficients;
  const int32_t* offsets;
  const LaneMap* maps;
  const int32_t* indices;
  int n_vectors;
  const float* residual;  // null: none
  float constant;
  float clip_min;
  float clip_max;
  bool hard_swish;  // in place of the clip
  float* y;
  int64_t plane;
};

struct LookupKernel {
  int max_vectors;
  void (*lookup)(const LookupTask&);
};

struct LookupKernels {
  int lanes;
  LookupKernel own;  // lists of one filter
  LookupKernel shared[kSharedKernels];
};

#define LCNN_KERNELS(needs, suffix) extern const LookupKernels kLookup##suffix;
#include "kernels/f32_lookup.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_F32_LOOKUP_H_
