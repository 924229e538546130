// The kernels' interface and contract. Kernel files include this header only and no STL: an inline
// function of a shared header, compiled there with AVX-512 on, could be the copy the linker keeps
// for an older processor.
//
// Sizes are counts of floats; a "vector" is `lanes` floats. Pointers into S, bias and the packed
// operands are 64-byte aligned where they start, and need no alignment after offsets are added.
// Outputs never overlap inputs.
#ifndef LCNN_SRC_KERNELS_KERNELS_H_
#define LCNN_SRC_KERNELS_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace lcnn {

constexpr int kMaxLanes = 16;
// Rows of D in one packed panel: panel[i * kPanelRows + row] = D[row, i], missing rows are 0.
constexpr int kPanelRows = 8;
// Longest stage 2 tile, in vectors, of any instruction set.
constexpr int kMaxTileVectors = 8;
// Neighbouring filters may share a list: so many, by the place of their kernel in `shared` below.
constexpr int kSharedKernels = 3;
constexpr int kSharedFilters[kSharedKernels] = {2, 4, 8};

// Where the lanes of one vector of S positions lie in a plane of X or Y. Bit l of `mask` says that
// lane l is a pixel; the other lanes are border. The pixels are base, base + 1, ... in lane order,
// or, when `indexed`, indices[base + l]. Where X is read with stride 2, `indexed` may be
// kAlternatePixels: then indices[base] tells how many triples (pixel, count, mask) follow, one at
// least, and the lanes of a triple's mask hold every other pixel from that one on, `count` of them.
constexpr uint8_t kAlternatePixels = 2;
struct LaneMap {
  int32_t base;
  uint16_t mask;
  uint8_t count;  // bits set in mask
  uint8_t indexed;
};

// Gathers pixels of X: packed[i * pitch + p] = x[i * plane + pixel of position p], 0 at the border,
// for the n_vectors vectors of positions. Reads only mapped pixels.
struct PackTask {
  const float* x;
  int64_t plane;
  int depth;  // channels
  const LaneMap* maps;
  const int32_t* indices;
  int n_vectors;
  float* packed;
  int64_t pitch;
};

// S[row * s_pitch + p] (+)= sum_i panel[i * kPanelRows + row] * packed[i * n_vectors * lanes + p],
// i ascending, for 0 <= row < rows <= kPanelRows and the n_vectors vectors of positions.
struct ProjectTask {
  const float* panel;
  const float* packed;
  int depth;
  int rows;
  int n_vectors;
  bool accumulate;  // add to what S holds
  float* s;
  int64_t s_pitch;
};

// Values of a panel as float32, the bits of float16, or int8: one of the three, the others are
// null.
struct PanelValues {
  const float* floats;
  const uint16_t* halves;
  const int8_t* bytes;
};

// One pixel: out[row] = sum_i panel[i * kPanelRows + row] * x[i] for all kPanelRows rows. The order
// of summation is the kernel's own.
struct ProjectPixelTask {
  PanelValues panel;
  const float* x;
  int64_t depth;
  float* out;
};

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

struct ProjectKernels {
  int lanes;
  int block_vectors;  // vectors of positions held in registers; tiles that are a multiple of it are
                      // fastest
  void (*pack)(const PackTask&);
  void (*project)(const ProjectTask&);
  void (*project_pixel)(const ProjectPixelTask&);
  // Halves or bytes to float32.
  void (*widen)(const PanelValues& values, int64_t count, float* floats);
};

struct LookupKernel {
  int max_vectors;
  void (*lookup)(const LookupTask&);
};

struct LookupKernels {
  LookupKernel own;  // lists of one filter
  LookupKernel shared[kSharedKernels];
};

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

#define LCNN_KERNELS(suffix, name)              \
  extern const ProjectKernels kProject##suffix; \
  extern const LookupKernels kLookup##suffix;   \
  extern const PoolKernels kPool##suffix;
#include "kernels/kernels.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_KERNELS_H_
