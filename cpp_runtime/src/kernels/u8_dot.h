// Sums of products of unsigned bytes with signed ones: a tile of pixels times some filters.
//
// Four consecutive bytes of a pixel's window are a quad. Weights lie in the order in which windows
// are read: for each quad, for each block of 16 filters, 16 times four bytes. For kernels that
// multiply several quads in one step those of a block are together: for each block, for each quad.
#ifndef LCNN_SRC_KERNELS_U8_DOT_H_
#define LCNN_SRC_KERNELS_U8_DOT_H_

#include <algorithm>

#include "kernels/lanes.h"

namespace lcnn {

constexpr int64_t kBlockFilters = 16;
constexpr int64_t kMaxBlocks = 4;
constexpr int64_t kQuad = 4;

// Quads that follow each other in memory, from row * row_bytes + column bytes behind the pixel's
// place on.
struct DotSpan {
  int32_t row;
  int32_t column;
  int32_t quads;
};

// For each pixel p and filter f < filters, with a = start[f] + the sum over all quads of spans:
//   v = fma(float(a), scale[f], bias[f])
// and where there is a residual v = fma(float(residual[y_offsets[p] + f] - residual_zero),
// residual_scale, v), limited to [low, high]. Then y[y_offsets[p] + f] is v or, for bytes, v
// rounded to the nearest integer, ties to even, plus zero; low and high are within [-zero, 255 -
// zero] then. Sums wrap around in 32 bits. start, scale, bias and weights are complete for 16 *
// blocks filters. Only whole quads of the windows are read, and only what belongs to the filters is
// written.
struct DotTask {
  const uint8_t* x;
  const int64_t* x_offsets;  // one for each pixel; bytes
  int64_t row_bytes;
  int64_t pixels;
  int64_t width;   // pixels are in rows of so many, in which they are x_step bytes apart,
  int64_t column;  // and this one of its row is the first
  int64_t x_step;
  const DotSpan* spans;
  int64_t n_spans;
  int64_t quads;  // of all spans
  int64_t chunk;  // quads of which spans consist
  const int8_t* weights;
  bool pairs_fit;  // PairsFit of all quads
  int64_t blocks;  // 1 to kMaxBlocks
  int64_t filters;
  const int32_t* start;
  const float* scale;
  const float* bias;
  float low;
  float high;
  int32_t zero;
  const uint8_t* residual;  // null: none
  float residual_scale;
  int32_t residual_zero;
  void* y;                   // bytes or floats
  const int64_t* y_offsets;  // one for each pixel; elements
};

// Whether 16 bits hold what the first two bytes of a quad of weights give with any bytes, and the
// last two: each two are at most 128 together, and at least -128.
inline bool PairsFit(const int8_t* quad) {
  constexpr int kMost = 128;
  const auto fit = [](int a, int b) {
    return std::max(a, 0) + std::max(b, 0) <= kMost && std::min(a, 0) + std::min(b, 0) >= -kMost;
  };
  return fit(quad[0], quad[1]) && fit(quad[2], quad[3]);
}

struct DotKernels {
  void (*to_narrow)(const DotTask&);
  void (*to_floats)(const DotTask&);
  // Quads that are multiplied in one step at most, a chunk. Chunks are read whole: weights are 0
  // where they are too long.
  int64_t most_quads = 1;
  // Time of a product of a quad and a block, in that of the vector kernels of the same machine.
  float cost = 1;
  // To be called behind the last task of a thread, unless null.
  void (*release)() = nullptr;
};

#define LCNN_KERNELS(needs, suffix) extern const DotKernels kDot##suffix;
#include "kernels/u8_dot.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_U8_DOT_H_
