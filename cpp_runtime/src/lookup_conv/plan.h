// Everything about a layer that depends on the input's size: where S lies in scratch (layout.h),
// what each unit of work reads and writes (tiles.h), and in which of the ways a layer can run.
#ifndef LCNN_SRC_LOOKUP_CONV_PLAN_H_
#define LCNN_SRC_LOOKUP_CONV_PLAN_H_

#include <cstdint>
#include <vector>

#include "kernels/f32_lookup.h"
#include "kernels/f32_project.h"
#include "lookup_conv/layout.h"
#include "lookup_conv/packed_weights.h"
#include "lookup_conv/tiles.h"

namespace lcnn {

// How stage 1 makes S of X.
enum class ProjectMode {
  kNothing,  // the dictionary is empty
  kPixel,    // a matrix-vector product: X is one pixel
  kCopy,     // S is X: the dictionary is the identity
  kPanels,   // a matrix product
};

// The work on `images` images that are in scratch together.
struct ImageGroup {
  int64_t images = 0;
  ProjectTiles project;
  LookupTiles lookup;
};

// Scratch of one thread that runs a unit of stage 2, in floats.
struct ThreadFloats {
  int64_t copy = 0;      // of S
  int64_t sums = 0;      // that wait for the next part of their lists
  int64_t results = 0;   // to be pooled or transposed
  int64_t residual = 0;  // transposed

  int64_t total() const { return copy + sums + results + residual; }
};

struct Plan {
  Geometry geometry;
  Runs runs;
  ProjectMode project_mode;
  LookupTiling tiling;
  RowCopy copy;  // of a dictionary row; without pieces: lookups read S itself
  // Of each entry: added to an output position in S, or to a position of the tile in its copy. Then
  // kMaxLanes that are read and not used.
  std::vector<int32_t> offsets;
  ImageGroup group;       // batch / group.images times
  ImageGroup last_group;  // the images left over; may be empty

  int64_t depth_block = 0;  // channels packed at a time
  int64_t panel_blocks = 0;
  std::vector<int64_t> filter_blocks;  // boundaries, with similar numbers of entries between them
  int64_t project_macs = 0;
  int64_t lookup_macs = 0;

  // Scratch is S, then the threads' parts, then the results of a group in mode kAllRows.
  ThreadFloats thread_floats;
  int64_t thread_parts = 0;
  int64_t waiting_results = 0;  // floats

  int64_t threads_begin() const { return runs.floats(); }
  int64_t results_begin() const { return threads_begin() + thread_parts * thread_floats.total(); }
  int64_t scratch_floats() const { return results_begin() + waiting_results; }
};

// Below this a parallel loop costs more than it gains: waking a thread takes a few microseconds,
// about 10^5 multiply-adds.
constexpr int64_t kMinParallelMacs = 400 * 1000;

// Channels packed at a time: a panel of them (4 KB) and a block of packed pixels (24 KB) share the
// first-level cache.
constexpr int64_t kMaxDepthBlock = 128;
// Floats of packed X in one unit of work, on the stack of the thread that runs it: half a
// first-level data cache.
constexpr int64_t kPackFloats = 6144;

// In mode kMatrix, the distance of two filters' results, which wait in the first-level cache to be
// transposed.
constexpr int64_t kMatrixPitch = kMaxTileVectors * kMaxLanes;

Plan MakePlan(const PackedWeights& weights, const ProjectKernels& project,
              const LookupKernels& lookup, const InputSize& in);

}  // namespace lcnn

#endif  // LCNN_SRC_LOOKUP_CONV_PLAN_H_
