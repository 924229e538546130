// A task cut into tiles of pixels whose sums fit the registers: included by the vector files of the
// family.
#ifndef LCNN_SRC_KERNELS_U8_DOT_TILES_H_
#define LCNN_SRC_KERNELS_U8_DOT_TILES_H_

#include "kernels/u8_dot.h"

namespace {

constexpr int kMaxTilePixels = 8;

using TileFunction = void (*)(const lcnn::DotTask& task, int64_t first_pixel);

// Tiles of 1 to 8 pixels, for one number of blocks.
template <template <int, int> class Tile, int BLOCKS>
struct TilesOf {
  static constexpr TileFunction kRun[kMaxTilePixels] = {
      Tile<1, BLOCKS>::Run, Tile<2, BLOCKS>::Run, Tile<3, BLOCKS>::Run, Tile<4, BLOCKS>::Run,
      Tile<5, BLOCKS>::Run, Tile<6, BLOCKS>::Run, Tile<7, BLOCKS>::Run, Tile<8, BLOCKS>::Run};
};

// Tile<PIXELS, BLOCKS>::Run is one tile; Tile<1, BLOCKS>::kMost pixels make the largest one. Tiles
// are equally large but for one pixel, so that none is nearly empty.
template <template <int, int> class Tile, int BLOCKS>
void RunTilesOf(const lcnn::DotTask& task) {
  constexpr int64_t kMost = Tile<1, BLOCKS>::kMost;
  int64_t first = 0;
  for (int64_t tiles = (task.pixels + kMost - 1) / kMost; tiles > 0; --tiles) {
    const int64_t pixels = (task.pixels - first + tiles - 1) / tiles;
    TilesOf<Tile, BLOCKS>::kRun[pixels - 1](task, first);
    first += pixels;
  }
}

template <template <int, int> class Tile>
void RunTiles(const lcnn::DotTask& task) {
  constexpr void (*kRun[lcnn::kMaxBlocks])(const lcnn::DotTask&) = {
      RunTilesOf<Tile, 1>, RunTilesOf<Tile, 2>, RunTilesOf<Tile, 3>, RunTilesOf<Tile, 4>};
  kRun[task.blocks - 1](task);
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_U8_DOT_TILES_H_
