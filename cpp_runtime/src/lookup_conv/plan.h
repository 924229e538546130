// Everything about a layer that depends on the input's size: where S lies in scratch, what each
// unit of work reads and writes.
//
// S holds, for every dictionary entry and every stride phase, one "run" of `run_length` floats: the
// images of a group one after the other, each as rows of `pitch` floats with its zero border.
// Output pixel (n, y, x) has position n * image_pitch + y * pitch + x, and tap (r, c) of entry j
// reads run (j, phase) at that position plus a constant. So stage 2 sees one-dimensional data.
#ifndef LCNN_SRC_LOOKUP_CONV_PLAN_H_
#define LCNN_SRC_LOOKUP_CONV_PLAN_H_

#include <cstdint>
#include <vector>

#include "base/geometry.h"
#include "kernels/kernels.h"
#include "lookup_conv/packed_weights.h"

namespace lcnn {

// Stage 1, positions [position, position + n_vectors * lanes) of all runs of one phase. The first
// and the last tile of a phase also write the zeros before and after.
struct ProjectTile {
  int32_t phase;
  int32_t position;
  int32_t n_vectors;
  int32_t first_map;
  int32_t zero_before;  // floats
  int32_t zero_after;
};

// Stage 2, output positions [position, position + n_vectors * lanes).
struct LookupTile {
  int32_t position;
  int32_t n_vectors;
  int32_t first_map;
};

// With pooling: some rows of windows of one image, and the rows of the convolution they cover. The
// tiles' maps count pixels from the first of those.
struct Band {
  int64_t image;
  int64_t pool_begin;
  int64_t pool_end;
  int64_t row_begin;
  int64_t row_end;
  size_t first_tile;
  size_t end_tile;
};

// The work on `images` images that are in scratch together.
struct ImageGroup {
  int64_t images = 0;
  std::vector<ProjectTile> project_tiles;
  std::vector<LookupTile> lookup_tiles;
  std::vector<Band> bands;            // with pooling, unless they would be too large
  std::vector<LaneMap> project_maps;  // positions to pixels of X, from the group's first image on
  std::vector<LaneMap> lookup_maps;   // positions to pixels of Y; with rows, of the tile
  std::vector<int32_t> project_indices;
  std::vector<int32_t> lookup_indices;
};

// What a tile reads of S may be copied, so that every load of a lookup is aligned and meets the
// first-level cache. A piece begins `offset` floats past the tile's first position, and is
// `vectors` longer than the tile; it serves all taps that read the same run at whole vectors from
// each other.
struct CopiedPiece {
  int64_t offset;
  int64_t vectors;
};

struct Plan {
  int64_t batch = 0;
  int64_t in_height = 0;
  int64_t in_width = 0;
  int64_t out_height = 0;
  int64_t out_width = 0;
  int64_t pooled_height = 0;  // of Y, where the result is pooled
  int64_t pooled_width = 0;
  int64_t pitch = 0;
  int64_t tile_vectors = 0;  // of the longest stage 2 tile
  int64_t image_pitch = 0;
  int64_t run_length = 0;  // a multiple of kMaxLanes
  int64_t phases = 0;
  bool single_pixel = false;  // stage 1 is a matrix-vector product
  bool rows = false;          // several images of one pixel: X and Y are matrices, S is transposed

  int64_t depth_block = 0;  // channels packed at a time
  int64_t panel_blocks = 0;
  std::vector<int64_t> filter_blocks;  // boundaries, with similar numbers of entries between them
  // Of each entry: added to an output position in S, or to a position of the tile in its copy. Then
  // kMaxLanes that are read and not used.
  std::vector<int32_t> offsets;
  std::vector<CopiedPiece> pieces;  // of one dictionary row; empty: lookups read S itself

  ImageGroup group;       // batch / group.images times
  ImageGroup last_group;  // the images left over; may be empty
  int64_t scratch_floats = 0;
  int64_t unpooled = -1;  // where in scratch a group's result is before pooling, if not in bands
  int64_t project_macs = 0;
  int64_t lookup_macs = 0;
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

// Filters whose sums wait for the next part of their lists, in one unit of work.
constexpr int64_t kMaxWaitingFilters = 128;

// Of matrices, filters in a unit of work: their results wait in the first-level cache to be
// transposed.
constexpr int64_t kRowFilters = 64;

// With pooling, floats of the result of some filters in a band: they stay in the second-level
// cache.
constexpr int64_t kBandFloats = 96 * 1024;

Plan MakePlan(const PackedWeights& weights, const ProjectKernels& project,
              const LookupKernels& lookup, int64_t batch, int64_t height, int64_t width);

}  // namespace lcnn

#endif  // LCNN_SRC_LOOKUP_CONV_PLAN_H_
