// The tiles of both stages: what each unit of work reads and writes.
#ifndef LCNN_SRC_LOOKUP_CONV_TILES_H_
#define LCNN_SRC_LOOKUP_CONV_TILES_H_

#include <cstdint>
#include <vector>

#include "kernels/f32_project.h"
#include "lookup_conv/lane_maps.h"
#include "lookup_conv/layout.h"

namespace lcnn {

// How the results of stage 2 get into Y.
enum class ResultMode {
  kPlanes,   // each where it belongs
  kMatrix,   // images of one pixel: X and Y are matrices with a pixel in each row, and transposed
  kBands,    // pooled, some rows of windows at a time
  kAllRows,  // pooled when all of a group of images are there: a band would be too large
};

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

// Some rows of windows of one image, and the rows of the convolution they cover. The tiles' maps
// count pixels from the first of those.
struct Band {
  int64_t image;
  int64_t pool_begin;
  int64_t pool_end;
  int64_t row_begin;
  int64_t row_end;
  size_t first_tile;
  size_t end_tile;
};

struct ProjectTiles {
  std::vector<ProjectTile> tiles;
  LaneMaps lanes;  // positions to pixels of X, from the group's first image on
};

struct LookupTiles {
  std::vector<LookupTile> tiles;
  std::vector<Band> bands;  // in mode kBands
  LaneMaps lanes;           // positions to pixels of Y; in mode kMatrix, of the tile
};

// What bands there are.
struct BandSize {
  int64_t filters;      // in a unit of work
  int64_t window_rows;  // 0: not one row fits
};

BandSize ChooseBands(const LookupConvShape& shape, const Geometry& geometry, bool copied);

// The tiles of stage 2 in a layer, for any number of images.
struct LookupTiling {
  ResultMode mode;
  int64_t lanes;
  int64_t vectors;  // of the longest tile
  BandSize band;
};

// Of so many images that are in scratch together, for tiles of up to `max_vectors`.
ProjectTiles MakeProjectTiles(const LookupConvShape& shape, const Geometry& geometry,
                              const Runs& runs, const ProjectKernels& kernels, int64_t max_vectors,
                              int64_t images);

LookupTiles MakeLookupTiles(const LookupConvShape& shape, const Geometry& geometry,
                            const Runs& runs, const LookupTiling& tiling, int64_t images);

}  // namespace lcnn

#endif  // LCNN_SRC_LOOKUP_CONV_TILES_H_
