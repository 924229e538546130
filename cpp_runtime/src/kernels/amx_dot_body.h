// Products in tiles of 16 rows of 64 bytes: included by one file per type of numbers, which defines
// Products, how tiles are multiplied, and for each kind of result what becomes of a pixel's sums.
//
// A tile of X is up to 16 pixels at equal distances times a chunk of quads, a tile of weights the
// chunk times a block of filters as it lies in memory, a tile of sums pixels times filters. Four
// tiles of pixels are multiplied at a time. Results are made when a block's sums are complete:
// between the products they took as long.
#ifndef LCNN_SRC_KERNELS_AMX_DOT_BODY_H_
#define LCNN_SRC_KERNELS_AMX_DOT_BODY_H_

#include <immintrin.h>

#include "kernels/u8_dot.h"
#include "kernels/unroll.h"

namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileQuads = 16;
constexpr int64_t kMaxTiles = 4;
constexpr int64_t kBlockSums = lcnn::kBlockFilters;
constexpr int64_t kBlockBytes = 64;
constexpr int kGroup = 4;

struct PixelTile {
  const uint8_t* x;
  int64_t pixels;
  int64_t rows;  // up to the last pixel's
};

// How a task's pixels are taken: in tiles of so many rows, within a row of the plane or going on in
// the next one, with rows between them that are no pixels.
struct Cut {
  int64_t rows;
  bool goes_on;
};

// Time that a tile takes besides that of its rows, in rows.
constexpr int64_t kTileCost = 4;

// From a row of the plane to the next one in steps from pixel to pixel; 0 if that is no whole
// number of them.
int64_t PitchOf(const lcnn::DotTask& t) {
  const int64_t to_end = t.width - t.column;
  if (to_end >= t.pixels) return 0;
  const int64_t gap = t.x_offsets[to_end] - t.x_offsets[to_end - 1];
  if (gap <= 0 || gap % t.x_step != 0) return 0;
  return t.width - 1 + gap / t.x_step;
}

Cut CutOf(const lcnn::DotTask& t) {
  const int64_t width = t.width < t.pixels ? t.width : t.pixels;
  const int64_t pitch = PitchOf(t);
  if (pitch == t.width) {
    const int64_t tiles = (t.pixels + kTileRows - 1) / kTileRows;
    return {(t.pixels + tiles - 1) / tiles, true};
  }
  const int64_t tiles = (width + kTileRows - 1) / kTileRows;
  const int64_t rows = (width + tiles - 1) / tiles;
  const bool cheaper = pitch * (kTileRows + kTileCost) < tiles * (rows + kTileCost) * kTileRows;
  return pitch > 0 && cheaper ? Cut{kTileRows, true} : Cut{rows, false};
}

// The tile at pixel `first`, in `column` of its row, whose sums begin at `at`. Writes where those
// of each pixel are.
PixelTile TileAt(const lcnn::DotTask& t, const Cut& cut, int64_t first, int64_t column, int64_t at,
                 uint16_t* sums) {
  const int64_t left = t.pixels - first;
  int64_t i = 0, row = 0, to_end = t.width - column;
  while (true) {
    for (; i < left && i < to_end && row < cut.rows; ++i, ++row) {
      sums[i] = static_cast<uint16_t>(at + row * kBlockSums);
    }
    if (i == left || i < to_end || !cut.goes_on) break;
    // On to the next row of the plane.
    const int64_t gap = t.x_offsets[first + i] - t.x_offsets[first + i - 1];
    if (gap <= 0 || gap % t.x_step != 0 || row - 1 + gap / t.x_step >= cut.rows) break;
    row += gap / t.x_step - 1;
    to_end += t.width;
  }
  return {t.x + t.x_offsets[first], i, row};
}

// Makes all `rows` rows of the tile at pixel `first` be read from between the first and the last
// pixel; false if there are not so many.
bool Fits(const lcnn::DotTask& t, int64_t rows, int64_t first, PixelTile* tile, uint16_t* sums) {
  const int64_t more = rows - tile->rows;
  const int64_t x = t.x_offsets[first];
  if (more == 0 || x + (rows - 1) * t.x_step <= t.x_offsets[t.pixels - 1]) return true;
  if (x - more * t.x_step < t.x_offsets[0]) return false;
  tile->x -= more * t.x_step;
  for (int64_t i = 0; i < tile->pixels; ++i) sums[i] += static_cast<uint16_t>(more * kBlockSums);
  return true;
}

// What the processor is told of tiles: 0 to 3 hold sums, 4 and 5 X, 6 and 7 weights.
void Configure(int64_t rows, int64_t quads) {
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
  Config config, now;
  for (int i = 0; i < 8; ++i) {
    const bool is_x = i == 4 || i == 5;
    config.row_bytes[i] = static_cast<uint16_t>(is_x ? quads * lcnn::kQuad : kBlockBytes);
    config.rows[i] = static_cast<uint8_t>(i < 6 ? rows : quads);
  }
  // Compilers take these two for instructions on 8 bytes only. Loading takes ten times as long.
  _tile_storeconfig(&now);
  __asm__ volatile("" : : "r"(&config), "r"(&now) : "memory");
  if (__builtin_memcmp(&config, &now, sizeof(config)) != 0) _tile_loadconfig(&config);
}

// The filters of a block that exist.
__mmask16 MaskOf(const lcnn::DotTask& t, int64_t block) {
  const int64_t left = t.filters - block * lcnn::kBlockFilters;
  return static_cast<__mmask16>(left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1u : 0);
}

// The sums of TILES tiles of pixels and a block, without what they start at, to `sums`.
template <class Products, int TILES>
void Multiply(const lcnn::DotTask& t, const PixelTile* tiles, int64_t block, int32_t* sums) {
  _tile_zero(0);
  if constexpr (TILES > 1) _tile_zero(1);
  if constexpr (TILES > 2) _tile_zero(2);
  if constexpr (TILES > 3) _tile_zero(3);
  const int64_t chunk_bytes = t.chunk * kBlockBytes;
  const int8_t* w = t.weights + block * t.quads * kBlockBytes;
  const uint8_t* x[TILES];
  for (const lcnn::DotSpan *span = t.spans, *end = span + t.n_spans; span != end; ++span) {
    const int64_t from = span->row * t.row_bytes + span->column;
    LCNN_UNROLL
    for (int i = 0; i < TILES; ++i) x[i] = tiles[i].x + from;
    int64_t i = 0;
    const int64_t bytes = span->quads * lcnn::kQuad;
    do {
      _tile_loadd(6, w, kBlockBytes);
      _tile_loadd(4, x[0] + i, t.x_step);
      Products::template Add<0>();
      if constexpr (TILES > 1) {
        _tile_loadd(5, x[1] + i, t.x_step);
        Products::template Add<1>();
      }
      if constexpr (TILES > 2) {
        _tile_loadd(4, x[2] + i, t.x_step);
        Products::template Add<2>();
      }
      if constexpr (TILES > 3) {
        _tile_loadd(5, x[3] + i, t.x_step);
        Products::template Add<3>();
      }
      i += t.chunk * lcnn::kQuad;
      w += chunk_bytes;
    } while (i < bytes);
  }
  constexpr int64_t kTileSums = kTileRows * kBlockSums;
  _tile_stored(0, sums, kBlockBytes);
  if constexpr (TILES > 1) _tile_stored(1, sums + kTileSums, kBlockBytes);
  if constexpr (TILES > 2) _tile_stored(2, sums + 2 * kTileSums, kBlockBytes);
  if constexpr (TILES > 3) _tile_stored(3, sums + 3 * kTileSums, kBlockBytes);
}

// Tiles that are multiplied together, of equally many rows, and where their pixels' sums are.
struct Tiles {
  int64_t rows;
  int64_t count;
  int64_t pixels;
  PixelTile tiles[kMaxTiles];
  uint16_t sums[kMaxTiles * kTileRows];
};

void NextTiles(const lcnn::DotTask& t, const Cut& cut, int64_t first, Tiles* some) {
  int64_t next = first, column = (t.column + first) % t.width;
  some->rows = cut.rows;
  some->pixels = some->count = 0;
  while (some->count < kMaxTiles && next < t.pixels) {
    uint16_t* const sums = some->sums + some->pixels;
    const int64_t at = some->count * kTileRows * kBlockSums;
    PixelTile tile = TileAt(t, cut, next, column, at, sums);
    const bool fits = Fits(t, cut.rows, next, &tile, sums);
    if (!fits && some->count > 0) return;
    some->tiles[some->count++] = tile;
    some->pixels += tile.pixels;
    if (!fits) {
      some->rows = tile.rows;
      return;
    }
    next += tile.pixels;
    column += tile.pixels;
    while (column >= t.width) column -= t.width;
  }
}

// What becomes of the sums of a block, four pixels at a time. The last one stands for those that
// lack to four.
template <class Result>
void Finish(const lcnn::DotTask& t, int64_t block, const Tiles& some, const int64_t* places,
            const int32_t* sums) {
  const Result result(t, block);
  const int64_t last = some.pixels - 1;
  for (int64_t p = 0; p <= last; p += kGroup) {
    const int32_t* group[kGroup];
    int64_t to[kGroup];
    LCNN_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      const int64_t pixel = p + i < last ? p + i : last;
      group[i] = sums + some.sums[pixel];
      to[i] = places[pixel];
    }
    result(group, to);
  }
}

template <class Products, class Result>
void RunAmx(const lcnn::DotTask& t) {
  constexpr void (*kMultiply[kMaxTiles])(const lcnn::DotTask&, const PixelTile*, int64_t,
                                         int32_t*) = {Multiply<Products, 1>, Multiply<Products, 2>,
                                                      Multiply<Products, 3>, Multiply<Products, 4>};
  alignas(64) int32_t sums[kMaxTiles * kTileRows * kBlockSums];
  const Cut cut = CutOf(t);
  int64_t configured = 0;
  Tiles some;
  for (int64_t first = 0; first < t.pixels; first += some.pixels) {
    NextTiles(t, cut, first, &some);
    if (some.rows != configured) Configure(some.rows, t.chunk);
    configured = some.rows;
    for (int64_t block = 0; block < t.blocks; ++block) {
      kMultiply[some.count - 1](t, some.tiles, block, sums);
      Finish<Result>(t, block, some, t.y_offsets + first, sums);
    }
  }
}

// Others in this thread may use tiles in their own way, and a thread without any is switched
// faster.
void Release() { _tile_release(); }

}  // namespace

#endif  // LCNN_SRC_KERNELS_AMX_DOT_BODY_H_
