#include "lookup_conv/plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

namespace lcnn {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
// Longest stage 1 tile, for layers with so few channels that kPackFloats would allow more.
constexpr int64_t kMaxTilePositions = 512;
// S of one group of images stays in the second-level cache, if one image does.
constexpr int64_t kGroupScratchFloats = 256 * 1024;
// The part of S that a stage 2 tile reads should fit the first-level cache (32-48 KB), or a shorter
// tile is faster: 256 filters on 14x14 with k = 128, 50 % non-zeros took 0.81 ms in tiles of 4
// vectors and 1.01 in tiles of 8 (AVX-512, 48 KB).
constexpr int64_t kTileFloats = 12 * 1024;
constexpr int64_t kMinTileVectors = 4;
// A copy that fits the first-level cache beside the sums.
constexpr int64_t kCopyFloats = 12 * 1024;
// With pooling: filters in a unit of work; and units of an image, if its rows allow.
constexpr int64_t kBandFilters = 32;
constexpr int64_t kCopiedBandFilters = 64;
constexpr int64_t kBandUnits = 4;
// Fewer units than this leave threads idle; more make stage 1 pack X again and stage 2 load S
// again.
constexpr int64_t kUnits = 8;

// A gather of a vector takes as long as so many runs of every other pixel.
constexpr int32_t kMaxRuns = 3;

// Appends the map of one vector. pixel_of(position) is the pixel or -1.
template <class PixelOf>
void AppendLaneMap(int64_t position, int lanes, const PixelOf& pixel_of, std::vector<LaneMap>* maps,
                   std::vector<int32_t>* indices) {
  int32_t pixels[kMaxLanes] = {};
  LaneMap map = {0, 0, 0, 0};
  for (int lane = 0; lane < lanes; ++lane) {
    const int64_t pixel = pixel_of(position + lane);
    if (pixel < 0) continue;
    pixels[lane] = static_cast<int32_t>(pixel);
    if (map.count == 0) map.base = pixels[lane];
    if (pixels[lane] != map.base + map.count) map.indexed = 1;
    map.mask = static_cast<uint16_t>(map.mask | 1u << lane);
    ++map.count;
  }
  if (map.indexed) {
    map.base = static_cast<int32_t>(indices->size());
    indices->insert(indices->end(), pixels, pixels + lanes);
  }
  maps->push_back(map);
}

// Replaces the last map's indices by runs of every other pixel, if they are few.
void UseAlternatePixels(int lanes, std::vector<LaneMap>* maps, std::vector<int32_t>* indices) {
  LaneMap& map = maps->back();
  if (!map.indexed) return;
  std::vector<int32_t> triples;
  const auto base = static_cast<size_t>(map.base);
  int previous = -2;  // lane
  for (int lane = 0; lane < lanes; ++lane) {
    if ((map.mask >> lane & 1) == 0) continue;
    const int32_t pixel = (*indices)[base + static_cast<size_t>(lane)];
    const bool follows =
        previous == lane - 1 && pixel == (*indices)[base + static_cast<size_t>(previous)] + 2;
    if (!follows) triples.insert(triples.end(), {pixel, 0, 0});
    ++*(triples.end() - 2);
    triples.back() |= 1 << lane;
    previous = lane;
  }
  const auto runs = static_cast<int32_t>(triples.size() / 3);
  if (runs > kMaxRuns) return;
  map.indexed = kAlternatePixels;
  indices->resize(base);
  indices->push_back(runs);
  indices->insert(indices->end(), triples.begin(), triples.end());
}

class Planner {
 public:
  Planner(const PackedWeights& weights, const ProjectKernels& project, const LookupKernels& lookup,
          int64_t batch, int64_t height, int64_t width)
      : weights_(weights),
        shape_(weights.shape()),
        lanes_(project.lanes),
        block_vectors_(project.block_vectors),
        max_vectors_(weights.KernelOf(lookup).max_vectors),
        rows_(LayOutAxis(shape_.height, height, "height")),
        columns_(LayOutAxis(shape_.width, width, "width")),
        copied_(weights.cut() && (batch > 1 || rows_.output > 1 || columns_.output > 1)) {
    RequireRange("batch", batch, 1, kMaxExtent);
    plan_.batch = batch;
    plan_.in_height = height;
    plan_.in_width = width;
    plan_.out_height = rows_.output;
    plan_.out_width = columns_.output;
    if (!shape_.pools()) return;
    plan_.pooled_height = OutputExtent(shape_.pool_height, rows_.output, "height to pool");
    plan_.pooled_width = OutputExtent(shape_.pool_width, columns_.output, "width to pool");
  }

  Plan Make() {
    ChoosePitch();
    LayOutRuns();
    plan_.group = MakeGroup(images_);
    plan_.last_group = MakeGroup(plan_.batch % images_);
    PlaceTaps();
    PlaceEntries();
    SplitWork();
    return std::move(plan_);
  }

 private:
  // A filter's rows of `pooled` rows of windows, all of them.
  int64_t BandRows(int64_t pooled) const {
    const Axis& axis = shape_.pool_height;
    return std::min(rows_.output, (pooled - 1) * axis.stride + axis.kernel);
  }

  // With fewer filters at a time S is loaded or copied more often, with fewer rows more of them are
  // computed twice.
  void ChooseBands() {
    band_filters_ =
        std::clamp<int64_t>(shape_.out_channels, 1, copied_ ? kCopiedBandFilters : kBandFilters);
    const int64_t blocks = CeilDiv(shape_.out_channels, band_filters_);
    const int64_t rows = CeilDiv(plan_.pooled_height, CeilDiv(kBandUnits, blocks));
    while (band_rows_ < rows && band_filters_ * Floats(band_rows_ + 1) <= kBandFloats) {
      ++band_rows_;
    }
  }

  int64_t Floats(int64_t pooled) const { return BandRows(pooled) * columns_.output; }

  // Rows that begin on a vector, or on half of one, need fewer copies but more vectors.
  void ChoosePitch() {
    int64_t best = columns_.pitch;
    if (copied_) {
      CheckedMul(rows_.pitch + rows_.max_shift, RoundUp(best, lanes_), kMaxInt32, "plane of S");
      double least = std::numeric_limits<double>::infinity();
      for (const int64_t unit : {int64_t{1}, std::max<int64_t>(1, lanes_ / 2), int64_t{lanes_}}) {
        const int64_t pitch = RoundUp(columns_.pitch, unit);
        const double cost = Cost(pitch);
        if (cost < least) best = pitch;
        least = std::min(least, cost);
      }
    }
    plan_.pitch = best;
  }

  // Of one image in loads, most of what limits either stage. A lookup needs its coefficient and its
  // offset too, and loads from the second-level cache count twice; a copied vector counts for 3.
  double Cost(int64_t pitch) {
    plan_.pitch = pitch;
    PlaceTaps();
    const int64_t plane = (rows_.output - 1) * pitch + columns_.output;
    const auto vectors = static_cast<double>(CeilDiv(plane, lanes_));
    const auto tiles = static_cast<double>(CeilDiv(CeilDiv(plane, lanes_), max_vectors_));
    const auto size = static_cast<double>(shape_.dictionary_size);
    const auto entries = static_cast<double>(weights_.positions().size());
    const int64_t part_floats = CeilDiv(shape_.dictionary_size, weights_.parts()) * row_floats_;
    const double lookup = part_floats <= kCopyFloats ? 1.25 : 2.25;
    const double project = weights_.identity() ? 1 : static_cast<double>(shape_.channels);
    return vectors * (project * size + lookup * entries) +
           tiles * size * 3 * static_cast<double>(row_floats_ / lanes_);
  }

  // Chooses the number of images in a group and the place of everything in S.
  void LayOutRuns() {
    plan_.phases = static_cast<int64_t>(rows_.phases.size() * columns_.phases.size());
    const int64_t entries =
        CheckedMul(shape_.group * shape_.dictionary_size, plan_.phases, kMaxInt32, "S");
    const int64_t plane = CheckedMul(rows_.pitch, plan_.pitch, kMaxInt32, "plane of S");
    // Whole vectors, so that no vector holds pixels of two images, unless a plane is smaller than a
    // vector.
    plan_.image_pitch = plane < lanes_ ? plane : RoundUp(plane, lanes_);
    const int64_t x_image = CheckedMul(
        shape_.channels, CheckedMul(plan_.in_height, plan_.in_width, kMaxInt32, "plane of X"),
        kMaxInt32, "image of X");
    const int64_t y_image = CheckedMul(
        shape_.out_channels, CheckedMul(rows_.output, columns_.output, kMaxInt32, "plane of Y"),
        kMaxInt32, "image of Y");
    if (shape_.pools()) ChooseBands();
    const int64_t shift = CheckedMul(rows_.max_shift, plan_.pitch, kMaxInt32, "plane of S");
    // Tiles end on a vector, up to kMaxLanes - 1 past the last pixel; the rest keeps cache sets
    // from colliding (below).
    const int64_t slack = shift + columns_.max_shift + 4 * kMaxLanes;
    CheckedMul(std::max<int64_t>(1, entries), plan_.image_pitch + slack, kMaxInt32,
               "S of one image");
    const int64_t s_image = entries * plan_.image_pitch;
    const int64_t s_runs = entries / shape_.group;  // read by one filter
    while (!copied_ && weights_.list_filters() == 1 && max_vectors_ > kMinTileVectors &&
           s_runs * (max_vectors_ * lanes_ + shift + columns_.max_shift) > kTileFloats) {
      max_vectors_ /= 2;
    }
    plan_.tile_vectors = max_vectors_;
    images_ = plan_.batch;
    images_ = std::min(images_,
                       std::max<int64_t>(1, kGroupScratchFloats / std::max<int64_t>(1, s_image)));
    images_ = std::min(images_, kMaxInt32 / std::max({int64_t{1}, x_image, y_image}));
    images_ =
        std::min(images_, (kMaxInt32 / std::max<int64_t>(1, entries) - slack) / plan_.image_pitch);
    images_ = CeilDiv(plan_.batch, CeilDiv(plan_.batch, images_));
    // Rows of equal length, an odd number of cache lines: then the same column of all entries
    // spreads over all cache sets.
    const int64_t lines =
        CeilDiv(images_ * plan_.image_pitch + shift + columns_.max_shift, kMaxLanes) + 1;
    plan_.run_length = (lines | 1) * kMaxLanes;
    plan_.scratch_floats = entries * plan_.run_length;
    if (shape_.pools() && band_rows_ == 0) {
      plan_.unpooled = plan_.scratch_floats;
      plan_.scratch_floats += images_ * y_image;
    }
    const bool pixels = plan_.in_height == 1 && plan_.in_width == 1 && plan_.image_pitch == 1 &&
                        plan_.phases == 1 && InputPixel(0, 1, 0) == 0;
    plan_.single_pixel = pixels && plan_.batch == 1 && !weights_.identity();
    plan_.rows = pixels && images_ > 1 && !shape_.pools();
  }

  ImageGroup MakeGroup(int64_t images) {
    ImageGroup group;
    group.images = images;
    if (images == 0) return group;
    const int64_t depth = std::min(weights_.channels_per_group(), kMaxDepthBlock);
    const int64_t step = block_vectors_ * lanes_;
    const int64_t positions = std::min(kPackFloats / depth, kMaxTilePositions) / step * step;
    plan_.depth_block = depth;
    for (int64_t phase = 0; phase < plan_.phases; ++phase) {
      AddProjectTiles(phase, positions / lanes_, &group);
    }
    if (band_rows_ > 0) {
      AddBands(&group);
    } else {
      AddLookupTiles(&group);
    }
    return group;
  }

  // Pixel of X, counted from the group's first image, at a position of a phase; -1 in the border.
  int64_t InputPixel(int64_t phase, int64_t images, int64_t position) const {
    const auto n_columns = static_cast<int64_t>(columns_.phases.size());
    const int64_t image = position / plan_.image_pitch;
    const int64_t row = position % plan_.image_pitch / plan_.pitch;
    const int64_t column = position % plan_.image_pitch % plan_.pitch;
    const auto& row_phase = rows_.phases[static_cast<size_t>(phase / n_columns)];
    const auto& column_phase = columns_.phases[static_cast<size_t>(phase % n_columns)];
    if (image >= images || row < row_phase.begin || row >= row_phase.end ||
        column < column_phase.begin || column >= column_phase.end) {
      return -1;
    }
    return image * shape_.channels * plan_.in_height * plan_.in_width +
           rows_.InputIndex(row_phase, row) * plan_.in_width +
           columns_.InputIndex(column_phase, column);
  }

  void AddProjectTiles(int64_t phase, int64_t max_vectors, ImageGroup* group) const {
    const auto pixel_of = [&](int64_t position) {
      return InputPixel(phase, group->images, position);
    };
    int64_t begin = 0;
    int64_t end = group->images * plan_.image_pitch;
    while (begin < end && pixel_of(begin) < 0) ++begin;
    while (end > begin && pixel_of(end - 1) < 0) --end;
    begin = begin / lanes_ * lanes_;
    const int64_t vectors = CeilDiv(end - begin, lanes_);
    const int64_t tiles = std::max<int64_t>(1, CeilDiv(vectors, max_vectors));
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = std::min(vectors, TileStart(t, tiles, vectors));
      const int64_t last = std::min(vectors, TileStart(t + 1, tiles, vectors));
      const int64_t zero_after = t + 1 == tiles ? plan_.run_length - (begin + vectors * lanes_) : 0;
      group->project_tiles.push_back(
          {static_cast<int32_t>(phase), static_cast<int32_t>(begin + first * lanes_),
           static_cast<int32_t>(last - first), static_cast<int32_t>(group->project_maps.size()),
           static_cast<int32_t>(t == 0 ? begin : 0), static_cast<int32_t>(zero_after)});
      for (int64_t v = first; v < last; ++v) {
        AppendLaneMap(begin + v * lanes_, lanes_, pixel_of, &group->project_maps,
                      &group->project_indices);
        UseAlternatePixels(lanes_, &group->project_maps, &group->project_indices);
      }
    }
  }

  // Tiles of equal length, rounded to what the kernel holds in registers.
  int64_t TileStart(int64_t tile, int64_t tiles, int64_t vectors) const {
    return RoundUp(tile * vectors / tiles, block_vectors_);
  }

  void AddLookupTiles(ImageGroup* group) const {
    const int64_t image_span = (rows_.output - 1) * plan_.pitch + columns_.output;
    const int64_t image_vectors = CeilDiv(image_span, lanes_);
    // Small planes share tiles with their neighbours; large ones leave the border rows between
    // images out.
    const bool together = group->images == 1 || image_vectors < max_vectors_;
    const int64_t stretches = together ? 1 : group->images;
    const int64_t vectors =
        together ? CeilDiv((group->images - 1) * plan_.image_pitch + image_span, lanes_)
                 : image_vectors;
    const auto pixel_of = [&](int64_t position, int64_t tile) {
      const int64_t pixel = OutputPixel(group->images, position);
      return plan_.rows && pixel >= 0 ? position - tile : pixel;
    };
    for (int64_t stretch = 0; stretch < stretches; ++stretch) {
      AddTiles(stretch * plan_.image_pitch, vectors, pixel_of, group);
    }
  }

  // Tiles of about equal length for so many vectors of positions. pixel_of(position, first position
  // of the tile) is the pixel or -1.
  template <class PixelOf>
  void AddTiles(int64_t begin, int64_t vectors, const PixelOf& pixel_of, ImageGroup* group) const {
    const int64_t tiles = CeilDiv(vectors, max_vectors_);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = t * vectors / tiles;
      const int64_t last = (t + 1) * vectors / tiles;
      const int64_t position = begin + first * lanes_;
      const LookupTile tile = {static_cast<int32_t>(position), static_cast<int32_t>(last - first),
                               static_cast<int32_t>(group->lookup_maps.size())};
      int64_t pixels = 0;
      for (int64_t v = 0; v < last - first; ++v) {
        AppendLaneMap(
            position + v * lanes_, lanes_, [&](int64_t p) { return pixel_of(p, position); },
            &group->lookup_maps, &group->lookup_indices);
        pixels += group->lookup_maps.back().count;
      }
      if (pixels > 0) {
        group->lookup_tiles.push_back(tile);
      } else {  // in a wide border
        group->lookup_maps.resize(static_cast<size_t>(tile.first_map));
      }
    }
  }

  void AddBands(ImageGroup* group) const {
    const Axis& axis = shape_.pool_height;
    const int64_t bands = CeilDiv(plan_.pooled_height, band_rows_);
    for (int64_t image = 0; image < group->images; ++image) {
      for (int64_t b = 0; b < bands; ++b) {
        const int64_t begin = b * plan_.pooled_height / bands;
        const int64_t end = (b + 1) * plan_.pooled_height / bands;
        const int64_t top = begin * axis.stride - axis.pad_begin;
        Band band = {image, begin, end, std::max<int64_t>(0, top), 0, group->lookup_tiles.size(),
                     0};
        band.row_end =
            std::min(rows_.output, (end - 1) * axis.stride - axis.pad_begin + axis.kernel);
        const int64_t first = band.row_begin * plan_.pitch;
        const int64_t span = (band.row_end - 1) * plan_.pitch + columns_.output - first;
        const int64_t start = image * plan_.image_pitch + first;
        AddTiles(
            start, CeilDiv(span, lanes_),
            [&](int64_t position, int64_t) {
              const int64_t row = (position - image * plan_.image_pitch) / plan_.pitch;
              const int64_t column = (position - image * plan_.image_pitch) % plan_.pitch;
              if (row >= band.row_end || column >= columns_.output) return int64_t{-1};
              return (row - band.row_begin) * columns_.output + column;
            },
            group);
        band.end_tile = group->lookup_tiles.size();
        group->bands.push_back(band);
      }
    }
  }

  int64_t OutputPixel(int64_t images, int64_t position) const {
    const int64_t image = position / plan_.image_pitch;
    const int64_t row = position % plan_.image_pitch / plan_.pitch;
    const int64_t column = position % plan_.image_pitch % plan_.pitch;
    if (image >= images || row >= rows_.output || column >= columns_.output) return -1;
    return (image * shape_.out_channels * rows_.output + row) * columns_.output + column;
  }

  // Finds what each tap adds to an output position, and to the runs of which dictionary row: of S,
  // or of a copy for tiles of max_vectors_.
  void PlaceTaps() {
    struct Tap {
      int64_t run, shift;
      size_t index;
    };
    std::vector<Tap> taps;
    const auto n_columns = static_cast<int64_t>(columns_.phases.size());
    for (size_t r = 0; r < rows_.tap_phase.size(); ++r) {
      for (size_t c = 0; c < columns_.tap_phase.size(); ++c) {
        taps.push_back({rows_.tap_phase[r] * n_columns + columns_.tap_phase[c],
                        rows_.tap_shift[r] * plan_.pitch + columns_.tap_shift[c], taps.size()});
      }
    }
    tap_offsets_.resize(taps.size());
    for (const Tap& tap : taps) {
      tap_offsets_[tap.index] = tap.run * plan_.run_length + tap.shift;
    }
    if (!copied_) return;
    // Taps of one run and remainder share a piece unless there is a tile's length between them.
    std::sort(taps.begin(), taps.end(), [&](const Tap& a, const Tap& b) {
      return std::make_tuple(a.run, a.shift % lanes_, a.shift) <
             std::make_tuple(b.run, b.shift % lanes_, b.shift);
    });
    plan_.pieces.clear();
    row_floats_ = 0;
    int64_t begin = 0;  // of the piece in the copy
    const Tap* last = nullptr;
    for (const Tap& tap : taps) {
      const int64_t gap = last == nullptr ? 0 : (tap.shift - last->shift) / lanes_;
      if (last == nullptr || tap.run != last->run || (tap.shift - last->shift) % lanes_ != 0 ||
          gap > max_vectors_) {
        begin = row_floats_;
        plan_.pieces.push_back({tap_offsets_[tap.index], 0});
        row_floats_ += max_vectors_ * lanes_;
      } else {
        plan_.pieces.back().vectors += gap;
        row_floats_ += gap * lanes_;
      }
      last = &tap;
      tap_offsets_[tap.index] = begin + plan_.pieces.back().vectors * lanes_;
    }
  }

  void PlaceEntries() {
    const auto taps = static_cast<int64_t>(tap_offsets_.size());
    const int64_t lists_per_group = std::max<int64_t>(1, weights_.lists() / shape_.group);
    const int64_t row_pitch = copied_ ? row_floats_ : plan_.phases * plan_.run_length;
    plan_.offsets.resize(weights_.positions().size() + kMaxLanes);
    for (int64_t part = 0; part < weights_.parts(); ++part) {
      const int32_t* const entry_begin = weights_.entry_begin(part);
      for (int64_t l = 0; l < weights_.lists(); ++l) {
        const int64_t first_row =
            copied_ ? -weights_.part_row(part) : l / lists_per_group * shape_.dictionary_size;
        for (auto e = static_cast<size_t>(entry_begin[l]);
             e < static_cast<size_t>(entry_begin[l + 1]); ++e) {
          const int64_t position = weights_.positions()[e];
          plan_.offsets[e] =
              static_cast<int32_t>((first_row + position / taps) * row_pitch +
                                   tap_offsets_[static_cast<size_t>(position % taps)]);
        }
      }
    }
  }

  void SplitWork() {
    int64_t pixels = 0;
    for (const auto& map : plan_.group.project_maps) pixels += map.count;
    constexpr int64_t kMaxMacs = std::numeric_limits<int64_t>::max();
    const int64_t rows = weights_.identity() ? 1 : shape_.dictionary_size;
    plan_.project_macs =
        CheckedMul(plan_.batch * shape_.channels, pixels / images_ * rows, kMaxMacs, "stage 1");
    plan_.lookup_macs = CheckedMul(plan_.batch * rows_.output * columns_.output, weights_.lookups(),
                                   kMaxMacs, "stage 2");

    const auto project_units =
        static_cast<int64_t>(plan_.group.project_tiles.size()) * shape_.group;
    // What runs in one thread is not cut: every block packs X, or copies S, again.
    const auto units = [](int64_t macs) { return macs < kMinParallelMacs ? 1 : kUnits; };
    plan_.panel_blocks = std::max<int64_t>(
        1,
        std::min(weights_.panels_per_group(), CeilDiv(units(plan_.project_macs), project_units)));
    const auto lookup_units = static_cast<int64_t>(plan_.group.lookup_tiles.size());
    int64_t blocks = std::min(weights_.lists(), CeilDiv(units(plan_.lookup_macs), lookup_units));
    if (weights_.cut()) {
      blocks = std::max(blocks, CeilDiv(shape_.out_channels, kMaxWaitingFilters));
    }
    blocks = std::max<int64_t>(1, blocks);
    if (band_rows_ > 0 || plan_.rows) {
      const int64_t filters = plan_.rows ? kRowFilters : band_filters_;
      for (int64_t o = 0; o < shape_.out_channels; o += filters) plan_.filter_blocks.push_back(o);
      plan_.filter_blocks.push_back(shape_.out_channels);
      return;
    }
    const int32_t* const begin = weights_.entry_begin(0);
    const int32_t* const end = begin + weights_.lists();
    for (int64_t b = 0; b <= blocks; ++b) {
      const int64_t share = static_cast<int64_t>(weights_.positions().size()) * b / blocks;
      const int64_t bound = std::lower_bound(begin, end, share) - begin;
      // Cut lists are dense, so that filters have about as many entries each.
      plan_.filter_blocks.push_back(
          weights_.cut() ? b * shape_.out_channels / blocks
          : b == blocks  ? shape_.out_channels
                         : std::min(shape_.out_channels, bound * weights_.list_filters()));
    }
  }

  const PackedWeights& weights_;
  const LookupConvShape& shape_;
  const int lanes_;
  const int block_vectors_;
  int64_t max_vectors_;  // of a stage 2 tile
  const AxisLayout rows_;
  const AxisLayout columns_;
  const bool copied_;  // stage 2 works on copies of S: not for one pixel, which is gathered
  int64_t images_ = 0;
  int64_t band_rows_ = 0;  // of windows; 0: no bands
  int64_t band_filters_ = 0;
  std::vector<int64_t> tap_offsets_;  // into the runs, or the copied pieces, of a dictionary row
  int64_t row_floats_ = 0;            // of the copy of a dictionary row
  Plan plan_;
};

}  // namespace

Plan MakePlan(const PackedWeights& weights, const ProjectKernels& project,
              const LookupKernels& lookup, int64_t batch, int64_t height, int64_t width) {
  return Planner(weights, project, lookup, batch, height, width).Make();
}

}  // namespace lcnn
