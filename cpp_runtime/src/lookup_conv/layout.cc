#include "lookup_conv/layout.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

namespace lcnn {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
// S of one group of images stays in the second-level cache, if one image does.
constexpr int64_t kGroupScratchFloats = 256 * 1024;
// A copy that fits the first-level cache beside the sums.
constexpr int64_t kCopyFloats = 12 * 1024;

// Loads, most of what limits either stage, for one image. A lookup needs its coefficient and its
// offset too, and loads from the second-level cache count twice; a copied vector counts for 3.
double Loads(const PackedWeights& weights, const Geometry& geometry, int64_t pitch, int64_t lanes,
             int64_t tile_vectors) {
  const int64_t row_floats = CopyOf(Taps(geometry, pitch), lanes, tile_vectors).floats;
  const LookupConvShape& shape = weights.shape();
  const int64_t plane = (geometry.out_height() - 1) * pitch + geometry.out_width();
  const auto vectors = static_cast<double>(CeilDiv(plane, lanes));
  const auto tiles = static_cast<double>(CeilDiv(CeilDiv(plane, lanes), tile_vectors));
  const auto size = static_cast<double>(shape.dictionary_size);
  const auto entries = static_cast<double>(weights.positions().size());
  const int64_t part_floats = CeilDiv(shape.dictionary_size, weights.parts()) * row_floats;
  const double lookup = part_floats <= kCopyFloats ? 1.25 : 2.25;
  const double project = weights.identity() ? 1 : static_cast<double>(shape.channels);
  return vectors * (project * size + lookup * entries) +
         tiles * size * 3 * static_cast<double>(row_floats / lanes);
}

}  // namespace

Geometry Measure(const LookupConvShape& shape, const InputSize& in) {
  Geometry geometry = {in, LayOutAxis(shape.height, in.height, "height"),
                       LayOutAxis(shape.width, in.width, "width"), 0, 0};
  RequireRange("batch", in.batch, 1, kMaxExtent);
  if (!shape.pools()) return geometry;
  geometry.pooled_height = OutputExtent(shape.pool_height, geometry.out_height(), "height to pool");
  geometry.pooled_width = OutputExtent(shape.pool_width, geometry.out_width(), "width to pool");
  return geometry;
}

std::vector<Tap> Taps(const Geometry& geometry, int64_t pitch) {
  const AxisLayout& rows = geometry.rows;
  const AxisLayout& columns = geometry.columns;
  const auto n_columns = static_cast<int64_t>(columns.phases.size());
  std::vector<Tap> taps;
  for (size_t r = 0; r < rows.tap_phase.size(); ++r) {
    for (size_t c = 0; c < columns.tap_phase.size(); ++c) {
      taps.push_back({rows.tap_phase[r] * n_columns + columns.tap_phase[c],
                      rows.tap_shift[r] * pitch + columns.tap_shift[c]});
    }
  }
  return taps;
}

RowCopy CopyOf(const std::vector<Tap>& taps, int64_t lanes, int64_t tile_vectors) {
  std::vector<size_t> order(taps.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto key = [&](size_t i) {
    return std::make_tuple(taps[i].phase, taps[i].shift % lanes, taps[i].shift);
  };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
  // Taps of one run and remainder share a piece unless there is a tile's length between them.
  RowCopy copy;
  copy.tap_offsets.resize(taps.size());
  int64_t begin = 0;  // of the piece
  const Tap* last = nullptr;
  for (const size_t i : order) {
    const Tap& tap = taps[i];
    const int64_t gap = last == nullptr ? 0 : (tap.shift - last->shift) / lanes;
    if (last == nullptr || tap.phase != last->phase || (tap.shift - last->shift) % lanes != 0 ||
        gap > tile_vectors) {
      begin = copy.floats;
      copy.pieces.push_back({tap.phase, tap.shift, 0});
      copy.floats += tile_vectors * lanes;
    } else {
      copy.pieces.back().vectors += gap;
      copy.floats += gap * lanes;
    }
    last = &tap;
    copy.tap_offsets[i] = begin + copy.pieces.back().vectors * lanes;
  }
  return copy;
}

// Rows that begin on a vector, or on half of one, need fewer copies but more vectors.
int64_t PitchForCopies(const PackedWeights& weights, const Geometry& geometry, int64_t lanes,
                       int64_t tile_vectors) {
  const AxisLayout& rows = geometry.rows;
  const int64_t shortest = geometry.columns.pitch;
  CheckedMul(rows.pitch + rows.max_shift, RoundUp(shortest, lanes), kMaxInt32, "plane of S");
  int64_t best = shortest;
  double least = std::numeric_limits<double>::infinity();
  for (const int64_t unit : {int64_t{1}, std::max<int64_t>(1, lanes / 2), lanes}) {
    const int64_t pitch = RoundUp(shortest, unit);
    const double loads = Loads(weights, geometry, pitch, lanes, tile_vectors);
    if (loads < least) best = pitch;
    least = std::min(least, loads);
  }
  return best;
}

Runs LayOutRuns(const LookupConvShape& shape, const Geometry& geometry, int64_t pitch,
                int64_t lanes) {
  Runs runs = {};
  runs.pitch = pitch;
  runs.phases = geometry.phases();
  runs.count = CheckedMul(shape.group * shape.dictionary_size, runs.phases, kMaxInt32, "S");
  const int64_t plane = CheckedMul(geometry.rows.pitch, pitch, kMaxInt32, "plane of S");
  // Whole vectors, so that no vector holds pixels of two images, unless a plane is smaller than a
  // vector.
  runs.image_pitch = plane < lanes ? plane : RoundUp(plane, lanes);
  const int64_t x_image = CheckedMul(
      shape.channels, CheckedMul(geometry.in.height, geometry.in.width, kMaxInt32, "plane of X"),
      kMaxInt32, "image of X");
  const int64_t y_image =
      CheckedMul(shape.out_channels,
                 CheckedMul(geometry.out_height(), geometry.out_width(), kMaxInt32, "plane of Y"),
                 kMaxInt32, "image of Y");
  const int64_t shift = CheckedMul(geometry.rows.max_shift, pitch, kMaxInt32, "plane of S") +
                        geometry.columns.max_shift;
  // Tiles end on a vector, up to kMaxLanes - 1 past the last pixel; the rest keeps cache sets
  // from colliding (below).
  const int64_t slack = shift + 4 * kMaxLanes;
  const int64_t at_least_one = std::max<int64_t>(1, runs.count);
  CheckedMul(at_least_one, runs.image_pitch + slack, kMaxInt32, "S of one image");
  const int64_t s_image = std::max<int64_t>(1, runs.count * runs.image_pitch);
  int64_t images = std::min(geometry.in.batch, std::max<int64_t>(1, kGroupScratchFloats / s_image));
  images = std::min(images, kMaxInt32 / std::max({int64_t{1}, x_image, y_image}));
  images = std::min(images, (kMaxInt32 / at_least_one - slack) / runs.image_pitch);
  runs.images = CeilDiv(geometry.in.batch, CeilDiv(geometry.in.batch, images));
  // Rows of equal length, an odd number of cache lines: then the same column of all entries
  // spreads over all cache sets.
  const int64_t lines = CeilDiv(runs.images * runs.image_pitch + shift, kMaxLanes) + 1;
  runs.length = (lines | 1) * kMaxLanes;
  return runs;
}

int64_t InputPixel(const Geometry& geometry, const Runs& runs, int64_t channels, int64_t images,
                   int64_t phase, int64_t position) {
  const AxisLayout& rows = geometry.rows;
  const AxisLayout& columns = geometry.columns;
  const auto n_columns = static_cast<int64_t>(columns.phases.size());
  const int64_t image = position / runs.image_pitch;
  const int64_t row = position % runs.image_pitch / runs.pitch;
  const int64_t column = position % runs.image_pitch % runs.pitch;
  const auto& row_phase = rows.phases[static_cast<size_t>(phase / n_columns)];
  const auto& column_phase = columns.phases[static_cast<size_t>(phase % n_columns)];
  if (image >= images || row < row_phase.begin || row >= row_phase.end ||
      column < column_phase.begin || column >= column_phase.end) {
    return kBorder;
  }
  return image * channels * geometry.in_plane() +
         rows.InputIndex(row_phase, row) * geometry.in.width +
         columns.InputIndex(column_phase, column);
}

int64_t OutputPixel(const Geometry& geometry, const Runs& runs, int64_t out_channels,
                    int64_t images, int64_t position) {
  const int64_t image = position / runs.image_pitch;
  const int64_t row = position % runs.image_pitch / runs.pitch;
  const int64_t column = position % runs.image_pitch % runs.pitch;
  if (image >= images || row >= geometry.out_height() || column >= geometry.out_width()) {
    return kBorder;
  }
  return (image * out_channels * geometry.out_height() + row) * geometry.out_width() + column;
}

}  // namespace lcnn
