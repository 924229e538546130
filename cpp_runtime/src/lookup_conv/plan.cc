#include "lookup_conv/plan.h"

#include <algorithm>
#include <limits>

#include "base/run_units.h"

namespace lcnn {
namespace {

// Longest stage 1 tile, for layers with so few channels that kPackFloats would allow more.
constexpr int64_t kMaxTilePositions = 512;
// The part of S that a stage 2 tile reads should fit the first-level cache (32-48 KB), or a shorter
// tile is faster: 256 filters on 14x14 with k = 128, 50 % non-zeros took 0.81 ms in tiles of 4
// vectors and 1.01 in tiles of 8 (AVX-512, 48 KB).
constexpr int64_t kTileFloats = 12 * 1024;
constexpr int64_t kMinTileVectors = 4;
// Filters whose sums wait for the next part of their lists, in one unit of work.
constexpr int64_t kMaxWaitingFilters = 128;
// In mode kMatrix, filters in a unit of work.
constexpr int64_t kMatrixFilters = 64;
// Fewer units than this leave threads idle; more make stage 1 pack X again and stage 2 load S
// again.
constexpr int64_t kUnits = 8;

// Vectors in a tile of lists that are read from S itself.
int64_t TileVectors(const PackedWeights& weights, const Geometry& geometry, const Runs& runs,
                    int64_t lanes, int64_t max_vectors) {
  if (weights.list_filters() > 1) return max_vectors;
  const int64_t shift = geometry.rows.max_shift * runs.pitch + geometry.columns.max_shift;
  const int64_t filter_runs = runs.count / weights.shape().group;  // read by one filter
  int64_t vectors = max_vectors;
  while (vectors > kMinTileVectors && filter_runs * (vectors * lanes + shift) > kTileFloats) {
    vectors /= 2;
  }
  return vectors;
}

// S, X and Y have one float for each image and channel.
bool OnePixelEach(const Geometry& geometry, const Runs& runs) {
  return geometry.in_plane() == 1 && runs.image_pitch == 1 && runs.phases == 1 &&
         InputPixel(geometry, runs, 1, 1, 0, 0) == 0;
}

ProjectMode ChooseProjectMode(const PackedWeights& weights, const Geometry& geometry,
                              const Runs& runs) {
  if (weights.shape().dictionary_size == 0) return ProjectMode::kNothing;
  if (weights.identity()) return ProjectMode::kCopy;
  const bool one_pixel = geometry.in.batch == 1 && OnePixelEach(geometry, runs);
  return one_pixel ? ProjectMode::kPixel : ProjectMode::kPanels;
}

ResultMode ChooseResultMode(const LookupConvShape& shape, const Geometry& geometry,
                            const Runs& runs, const BandSize& band) {
  if (shape.pools()) return band.window_rows > 0 ? ResultMode::kBands : ResultMode::kAllRows;
  const bool matrix = runs.images > 1 && OnePixelEach(geometry, runs);
  return matrix ? ResultMode::kMatrix : ResultMode::kPlanes;
}

// What each entry adds to a position: `row_floats` from one dictionary row to the next, and its
// tap's offset.
std::vector<int32_t> EntryOffsets(const PackedWeights& weights, bool copied, int64_t row_floats,
                                  const std::vector<int64_t>& tap_offsets) {
  const LookupConvShape& shape = weights.shape();
  const auto taps = static_cast<int64_t>(tap_offsets.size());
  const int64_t lists_per_group = std::max<int64_t>(1, weights.lists() / shape.group);
  std::vector<int32_t> offsets(weights.positions().size() + kMaxLanes);
  for (int64_t part = 0; part < weights.parts(); ++part) {
    const int32_t* const begin = weights.entry_begin(part);
    for (int64_t l = 0; l < weights.lists(); ++l) {
      const int64_t first_row =
          copied ? -weights.part_row(part) : l / lists_per_group * shape.dictionary_size;
      for (auto e = static_cast<size_t>(begin[l]); e < static_cast<size_t>(begin[l + 1]); ++e) {
        const int64_t position = weights.positions()[e];
        offsets[e] = static_cast<int32_t>((first_row + position / taps) * row_floats +
                                          tap_offsets[static_cast<size_t>(position % taps)]);
      }
    }
  }
  return offsets;
}

std::vector<int64_t> TapOffsetsInRuns(const Geometry& geometry, const Runs& runs) {
  std::vector<int64_t> offsets;
  for (const Tap& tap : Taps(geometry, runs.pitch)) {
    offsets.push_back(tap.phase * runs.length + tap.shift);
  }
  return offsets;
}

int64_t ProjectMacsOf(const PackedWeights& weights, const Geometry& geometry,
                      const ImageGroup& group) {
  int64_t pixels = 0;
  for (const LaneMap& map : group.project.lanes.maps) pixels += map.count;
  const LookupConvShape& shape = weights.shape();
  const int64_t rows = weights.identity() ? 1 : shape.dictionary_size;
  return CheckedMul(geometry.in.batch * shape.channels, pixels / group.images * rows,
                    std::numeric_limits<int64_t>::max(), "stage 1");
}

int64_t LookupMacsOf(const PackedWeights& weights, const Geometry& geometry) {
  return CheckedMul(geometry.in.batch * geometry.out_plane(), weights.lookups(),
                    std::numeric_limits<int64_t>::max(), "stage 2");
}

// Blocks that make enough units of so many without blocks. What runs in one thread is not cut:
// every block packs X, or copies S, again.
int64_t Blocks(int64_t macs, size_t units) {
  return CeilDiv(macs < kMinParallelMacs ? 1 : kUnits, static_cast<int64_t>(units));
}

std::vector<int64_t> BlocksOf(int64_t filters, int64_t at_a_time) {
  std::vector<int64_t> bounds;
  for (int64_t o = 0; o < filters; o += at_a_time) bounds.push_back(o);
  bounds.push_back(filters);
  return bounds;
}

std::vector<int64_t> FilterBlocks(const PackedWeights& weights, const LookupTiling& tiling,
                                  int64_t blocks_wanted) {
  const int64_t filters = weights.shape().out_channels;
  if (tiling.mode == ResultMode::kBands) return BlocksOf(filters, tiling.band.filters);
  if (tiling.mode == ResultMode::kMatrix) return BlocksOf(filters, kMatrixFilters);
  int64_t blocks = std::min(weights.lists(), blocks_wanted);
  if (weights.cut()) blocks = std::max(blocks, CeilDiv(filters, kMaxWaitingFilters));
  blocks = std::max<int64_t>(1, blocks);
  const int32_t* const begin = weights.entry_begin(0);
  const int32_t* const end = begin + weights.lists();
  std::vector<int64_t> bounds;
  for (int64_t b = 0; b <= blocks; ++b) {
    const int64_t share = static_cast<int64_t>(weights.positions().size()) * b / blocks;
    const int64_t bound = std::lower_bound(begin, end, share) - begin;
    // Cut lists are dense, so that filters have about as many entries each.
    bounds.push_back(weights.cut() ? b * filters / blocks
                     : b == blocks ? filters
                                   : std::min(filters, bound * weights.list_filters()));
  }
  return bounds;
}

int64_t LongestBlock(const std::vector<int64_t>& bounds) {
  int64_t longest = 0;
  for (size_t b = 1; b < bounds.size(); ++b) longest = std::max(longest, bounds[b] - bounds[b - 1]);
  return longest;
}

ThreadFloats ThreadFloatsOf(const PackedWeights& weights, const Plan& plan) {
  ThreadFloats floats;
  const int64_t filters = LongestBlock(plan.filter_blocks);
  const int64_t tile = plan.tiling.vectors * plan.tiling.lanes;
  const auto whole_lines = [](int64_t count) { return RoundUp(count, kMaxLanes); };
  if (!plan.copy.pieces.empty()) {
    int64_t rows = 0;
    for (int64_t p = 0; p < weights.parts(); ++p) {
      rows = std::max(rows, weights.part_row(p + 1) - weights.part_row(p));
    }
    floats.copy = whole_lines(rows * plan.copy.floats);
  }
  if (weights.parts() > 1) floats.sums = whole_lines(filters * tile);
  if (plan.tiling.mode == ResultMode::kMatrix) {
    floats.results = floats.residual = kMatrixFilters * kMatrixPitch;
  }
  int64_t rows = 0;
  for (const Band& band : plan.group.lookup.bands) {
    rows = std::max(rows, band.row_end - band.row_begin);
  }
  floats.results += whole_lines(filters * rows * plan.geometry.out_width());
  return floats;
}

int64_t LookupUnitsOf(const Plan& plan) {
  const LookupTiles& tiles = plan.group.lookup;
  const size_t units = tiles.bands.empty() ? tiles.tiles.size() : tiles.bands.size();
  return static_cast<int64_t>(units * (plan.filter_blocks.size() - 1));
}

}  // namespace

Plan MakePlan(const PackedWeights& weights, const ProjectKernels& project,
              const LookupKernels& lookup, const InputSize& in) {
  const LookupConvShape& shape = weights.shape();
  const int64_t max_vectors = weights.KernelOf(lookup).max_vectors;
  const int64_t max_lanes = std::max(project.lanes, lookup.lanes);
  Plan plan = {};
  plan.geometry = Measure(shape, in);
  const Geometry& geometry = plan.geometry;
  // One pixel is gathered from S instead.
  const bool copied = weights.cut() && (in.batch > 1 || geometry.out_plane() > 1);
  const int64_t pitch = copied ? PitchForCopies(weights, geometry, lookup.lanes, max_vectors)
                               : geometry.columns.pitch;
  plan.runs = LayOutRuns(shape, geometry, pitch, max_lanes);
  const BandSize band = shape.pools() ? ChooseBands(shape, geometry, copied) : BandSize{0, 0};
  const int64_t vectors =
      copied ? max_vectors : TileVectors(weights, geometry, plan.runs, lookup.lanes, max_vectors);
  plan.project_mode = ChooseProjectMode(weights, geometry, plan.runs);
  plan.tiling = {ChooseResultMode(shape, geometry, plan.runs, band), lookup.lanes, vectors, band};

  plan.depth_block = std::min(weights.channels_per_group(), kMaxDepthBlock);
  const int64_t step = static_cast<int64_t>(project.block_vectors) * project.lanes;
  const int64_t positions =
      std::min(kPackFloats / plan.depth_block, kMaxTilePositions) / step * step;
  const auto make_group = [&](int64_t images) -> ImageGroup {
    if (images == 0) return {};
    return {
        images,
        MakeProjectTiles(shape, geometry, plan.runs, project, positions / project.lanes, images),
        MakeLookupTiles(shape, geometry, plan.runs, plan.tiling, images)};
  };
  plan.group = make_group(plan.runs.images);
  plan.last_group = make_group(in.batch % plan.runs.images);

  if (copied) {
    plan.copy = CopyOf(Taps(geometry, pitch), lookup.lanes, vectors);
    plan.offsets = EntryOffsets(weights, copied, plan.copy.floats, plan.copy.tap_offsets);
  } else {
    plan.offsets = EntryOffsets(weights, copied, plan.runs.phases * plan.runs.length,
                                TapOffsetsInRuns(geometry, plan.runs));
  }
  plan.project_macs = ProjectMacsOf(weights, geometry, plan.group);
  plan.lookup_macs = LookupMacsOf(weights, geometry);
  const auto project_units = plan.group.project.tiles.size() * static_cast<size_t>(shape.group);
  plan.panel_blocks = std::max<int64_t>(
      1, std::min(weights.panels_per_group(), Blocks(plan.project_macs, project_units)));
  plan.filter_blocks =
      FilterBlocks(weights, plan.tiling, Blocks(plan.lookup_macs, plan.group.lookup.tiles.size()));
  plan.thread_floats = ThreadFloatsOf(weights, plan);
  plan.thread_parts = plan.thread_floats.total() == 0 ? 0
                      : plan.lookup_macs < kMinParallelMacs
                          ? 1
                          : std::min(LookupUnitsOf(plan), MachineThreads());
  if (plan.tiling.mode == ResultMode::kAllRows) {
    plan.waiting_results = plan.runs.images * shape.out_channels * geometry.out_plane();
  }
  return plan;
}

}  // namespace lcnn
