#include "lookup_conv/tiles.h"

#include <algorithm>

namespace lcnn {
namespace {

// In a unit of work on bands; and units of an image, if its rows allow.
constexpr int64_t kBandFilters = 32;
constexpr int64_t kCopiedBandFilters = 64;
constexpr int64_t kBandUnits = 4;
// Floats of the result of some filters in a band: they stay in the second-level cache.
constexpr int64_t kBandFloats = 96 * 1024;

// The pixels of a vector's lanes; pixel_of(position) is one or kBorder.
template <class PixelOf>
std::vector<int64_t> PixelsOf(int64_t position, int64_t lanes, const PixelOf& pixel_of) {
  std::vector<int64_t> pixels;
  pixels.reserve(static_cast<size_t>(lanes));
  for (int64_t lane = 0; lane < lanes; ++lane) pixels.push_back(pixel_of(position + lane));
  return pixels;
}

// Tiles of equal length, rounded to what the kernel holds in registers.
int64_t TileStart(int64_t tile, int64_t tiles, int64_t vectors, int64_t block_vectors) {
  return std::min(vectors, RoundUp(tile * vectors / tiles, block_vectors));
}

template <class PixelOf>
void AddProjectTiles(int64_t phase, const Runs& runs, const ProjectKernels& kernels,
                     int64_t max_vectors, int64_t images, const PixelOf& pixel_of,
                     ProjectTiles* all) {
  const int64_t lanes = kernels.lanes;
  int64_t begin = 0;
  int64_t end = images * runs.image_pitch;
  while (begin < end && pixel_of(begin) == kBorder) ++begin;
  while (end > begin && pixel_of(end - 1) == kBorder) --end;
  begin = begin / lanes * lanes;
  const int64_t vectors = CeilDiv(end - begin, lanes);
  const int64_t tiles = std::max<int64_t>(1, CeilDiv(vectors, max_vectors));
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = TileStart(t, tiles, vectors, kernels.block_vectors);
    const int64_t last = TileStart(t + 1, tiles, vectors, kernels.block_vectors);
    const int64_t zero_after = t + 1 == tiles ? runs.length - (begin + vectors * lanes) : 0;
    all->tiles.push_back(
        {static_cast<int32_t>(phase), static_cast<int32_t>(begin + first * lanes),
         static_cast<int32_t>(last - first), static_cast<int32_t>(all->lanes.maps.size()),
         static_cast<int32_t>(t == 0 ? begin : 0), static_cast<int32_t>(zero_after)});
    for (int64_t v = first; v < last; ++v) {
      all->lanes.AddToRead(PixelsOf(begin + v * lanes, lanes, pixel_of));
    }
  }
}

// Tiles of about equal length for so many vectors of positions. pixel_of(position, first position
// of the tile) is the pixel or kBorder.
template <class PixelOf>
void AddLookupTiles(int64_t begin, int64_t vectors, const LookupTiling& tiling,
                    const PixelOf& pixel_of, LookupTiles* all) {
  const int64_t tiles = CeilDiv(vectors, tiling.vectors);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = t * vectors / tiles;
    const int64_t last = (t + 1) * vectors / tiles;
    const int64_t position = begin + first * tiling.lanes;
    const LookupTile tile = {static_cast<int32_t>(position), static_cast<int32_t>(last - first),
                             static_cast<int32_t>(all->lanes.maps.size())};
    int64_t pixels = 0;
    for (int64_t v = 0; v < last - first; ++v) {
      all->lanes.Add(PixelsOf(position + v * tiling.lanes, tiling.lanes,
                              [&](int64_t p) { return pixel_of(p, position); }));
      pixels += all->lanes.maps.back().count;
    }
    if (pixels > 0) {
      all->tiles.push_back(tile);
    } else {  // in a wide border
      all->lanes.maps.resize(static_cast<size_t>(tile.first_map));
    }
  }
}

void AddBand(const Geometry& geometry, const Runs& runs, const LookupTiling& tiling, Band band,
             LookupTiles* all) {
  const int64_t columns = geometry.out_width();
  const int64_t first = band.row_begin * runs.pitch;
  const int64_t span = (band.row_end - 1) * runs.pitch + columns - first;
  const int64_t image = band.image * runs.image_pitch;
  const auto pixel_of = [&](int64_t position, int64_t) {
    const int64_t row = (position - image) / runs.pitch;
    const int64_t column = (position - image) % runs.pitch;
    if (row >= band.row_end || column >= columns) return kBorder;
    return (row - band.row_begin) * columns + column;
  };
  band.first_tile = all->tiles.size();
  AddLookupTiles(image + first, CeilDiv(span, tiling.lanes), tiling, pixel_of, all);
  band.end_tile = all->tiles.size();
  all->bands.push_back(band);
}

void AddBands(const Axis& pool, const Geometry& geometry, const Runs& runs,
              const LookupTiling& tiling, int64_t images, LookupTiles* all) {
  const int64_t bands = CeilDiv(geometry.pooled_height, tiling.band.window_rows);
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t b = 0; b < bands; ++b) {
      const int64_t begin = b * geometry.pooled_height / bands;
      const int64_t end = (b + 1) * geometry.pooled_height / bands;
      const int64_t top = begin * pool.stride - pool.pad_begin;
      const int64_t bottom = (end - 1) * pool.stride - pool.pad_begin + pool.kernel;
      AddBand(geometry, runs, tiling,
              {image, begin, end, std::max<int64_t>(0, top),
               std::min(geometry.out_height(), bottom), 0, 0},
              all);
    }
  }
}

// Rows of the convolution that so many rows of windows cover, all of them.
int64_t CoveredRows(const Axis& pool, const Geometry& geometry, int64_t window_rows) {
  return std::min(geometry.out_height(), (window_rows - 1) * pool.stride + pool.kernel);
}

}  // namespace

// With fewer filters at a time S is loaded or copied more often, with fewer rows more of them are
// computed twice.
BandSize ChooseBands(const LookupConvShape& shape, const Geometry& geometry, bool copied) {
  const int64_t filters =
      std::clamp<int64_t>(shape.out_channels, 1, copied ? kCopiedBandFilters : kBandFilters);
  const int64_t blocks = CeilDiv(shape.out_channels, filters);
  const int64_t rows = CeilDiv(geometry.pooled_height, CeilDiv(kBandUnits, blocks));
  const auto floats = [&](int64_t window_rows) {
    return filters * CoveredRows(shape.pool_height, geometry, window_rows) * geometry.out_width();
  };
  BandSize band = {filters, 0};
  while (band.window_rows < rows && floats(band.window_rows + 1) <= kBandFloats) {
    ++band.window_rows;
  }
  return band;
}

ProjectTiles MakeProjectTiles(const LookupConvShape& shape, const Geometry& geometry,
                              const Runs& runs, const ProjectKernels& kernels, int64_t max_vectors,
                              int64_t images) {
  ProjectTiles all;
  for (int64_t phase = 0; phase < runs.phases; ++phase) {
    const auto pixel_of = [&](int64_t position) {
      return InputPixel(geometry, runs, shape.channels, images, phase, position);
    };
    AddProjectTiles(phase, runs, kernels, max_vectors, images, pixel_of, &all);
  }
  return all;
}

LookupTiles MakeLookupTiles(const LookupConvShape& shape, const Geometry& geometry,
                            const Runs& runs, const LookupTiling& tiling, int64_t images) {
  LookupTiles all;
  if (tiling.mode == ResultMode::kBands) {
    AddBands(shape.pool_height, geometry, runs, tiling, images, &all);
    return all;
  }
  const int64_t image_span = (geometry.out_height() - 1) * runs.pitch + geometry.out_width();
  const int64_t image_vectors = CeilDiv(image_span, tiling.lanes);
  // Small planes share tiles with their neighbours; large ones leave the border rows between
  // images out.
  const bool together = images == 1 || image_vectors < tiling.vectors;
  const int64_t stretches = together ? 1 : images;
  const int64_t vectors = together
                              ? CeilDiv((images - 1) * runs.image_pitch + image_span, tiling.lanes)
                              : image_vectors;
  const auto pixel_of = [&](int64_t position, int64_t tile) {
    const int64_t pixel = OutputPixel(geometry, runs, shape.out_channels, images, position);
    return tiling.mode == ResultMode::kMatrix && pixel != kBorder ? position - tile : pixel;
  };
  for (int64_t stretch = 0; stretch < stretches; ++stretch) {
    AddLookupTiles(stretch * runs.image_pitch, vectors, tiling, pixel_of, &all);
  }
  return all;
}

}  // namespace lcnn
