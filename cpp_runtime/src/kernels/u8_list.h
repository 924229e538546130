// Sums of products of unsigned bytes with signed ones over lists of quads: some positions of a
// plane times some filters, of which each group of 1, 2 or 4 has a list of its own.
#ifndef LCNN_SRC_KERNELS_U8_LIST_H_
#define LCNN_SRC_KERNELS_U8_LIST_H_

#include "kernels/u8_dot.h"

namespace lcnn {

// Positions in a vector, for all rows of kernels.
constexpr int64_t kListLanes = 16;
// Filters that share a list: 1 << s for s below this.
constexpr int kListShares = 3;

// A quad that a list reads: of the plane `quad` at the place of tap `tap`.
struct ListEntry {
  uint16_t tap;
  uint16_t quad;
};

// X lies in planes of quads: a position of a plane is four bytes. For each position p < 16 *
// vectors and filter f, with a = start[f] + the sum over the entries of its list of the quad's
// products with the four bytes of a weight, the result is as in DotTask. Bytes go to y[(f / 4 *
// pitch + p) * 4 + f % 4], floats to y[f * pitch + p]; the residual lies as bytes do. Whole vectors
// are read and written.
struct ListTask {
  const uint8_t* x;  // of the first position, plane 0
  int64_t plane_bytes;
  const int32_t* tap_bytes;  // for each tap
  const ListEntry* entries;
  const int32_t* weights;  // for each entry, one of each filter of the group
  const int64_t* counts;   // of each group's entries
  int64_t groups;
  int64_t share;   // filters of a group: 1, 2 or 4
  bool pairs_fit;  // PairsFit of all quads
  int64_t vectors;
  const int32_t* start;
  const float* scale;
  const float* bias;
  float low;
  float high;
  int32_t zero;
  const uint8_t* residual;
  float residual_scale;
  int32_t residual_zero;
  void* y;
  int64_t pitch;  // in positions
};

struct ListKernels {
  // Time of a product of a list of 1, 2 and 4 filters relative to one of DotKernels, 0 where that
  // never pays, and of a filter's start and end in products.
  float cost[kListShares];
  float filter_cost;
  void (*to_narrow)(const ListTask&);
  void (*to_floats)(const ListTask&);
};

#define LCNN_KERNELS(needs, suffix) extern const ListKernels kList##suffix;
#include "kernels/u8_list.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_U8_LIST_H_
