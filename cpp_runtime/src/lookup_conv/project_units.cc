// Stage 1.
#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/transpose.h"
#include "lookup_conv/job.h"

namespace lcnn {
namespace {

// Values [begin, begin + depth) x kPanelRows of a panel, widened into `buffer` if they are not
// float32.
const float* PanelBlock(const Job& job, int64_t group, int64_t panel, int64_t begin, int64_t depth,
                        float* buffer) {
  const PanelValues values = job.weights.panel(group, panel, begin);
  if (values.type == PanelType::kFloat32) return values.floats();
  job.kernels.project.widen(values, depth * kPanelRows, buffer);
  return buffer;
}

// Writes the zeros around a tile of `rows` runs.
void ZeroBorders(const Job& job, const ProjectTile& tile, float* runs, int64_t rows) {
  const Runs& layout = job.plan.runs;
  for (int64_t r = 0; r < rows; ++r) {
    float* const run = runs + r * layout.phases * layout.length;
    std::fill(run - tile.zero_before, run, 0.0f);
    float* const end = run + tile.n_vectors * job.kernels.project.lanes;
    std::fill(end, end + tile.zero_after, 0.0f);
  }
}

void ProjectPanel(const Job& job, const ProjectTile& tile, int64_t group, int64_t panel,
                  int64_t depth_begin, ProjectTask task) {
  const Runs& layout = job.plan.runs;
  const int64_t size = job.weights.shape().dictionary_size;
  const int64_t row = panel * kPanelRows;
  alignas(kCacheLine) float widened[kMaxDepthBlock * kPanelRows];
  task.panel = PanelBlock(job, group, panel, depth_begin, task.depth, widened);
  task.rows = static_cast<int>(std::min<int64_t>(kPanelRows, size - row));
  task.accumulate = depth_begin > 0;
  task.s_pitch = layout.phases * layout.length;
  float* const runs =
      job.s + ((group * size + row) * layout.phases + tile.phase) * layout.length + tile.position;
  task.s = runs;
  job.kernels.project.project(task);
  if (depth_begin == 0) ZeroBorders(job, tile, runs, task.rows);
}

// Packs the tile's pixels of `depth` channels from x on: packed[i * pitch + p].
void Pack(const Job& job, const ProjectTile& tile, const float* x, int64_t depth, float* packed,
          int64_t pitch) {
  if (job.plan.tiling.mode != ResultMode::kMatrix) {
    const LaneMaps& lanes = job.group.project.lanes;
    job.kernels.project.pack({x, job.plan.geometry.in_plane(), static_cast<int>(depth),
                              lanes.maps.data() + tile.first_map, lanes.indices.data(),
                              tile.n_vectors, packed, pitch});
    return;
  }
  const int64_t positions = tile.n_vectors * job.kernels.project.lanes;
  const int64_t rows = std::min(positions, job.group.images - tile.position);
  const int64_t channels = job.weights.shape().channels;
  Transpose(x + tile.position * channels, channels, rows, depth, packed, pitch);
  for (int64_t i = 0; i < depth; ++i) {
    std::fill(packed + i * pitch + rows, packed + i * pitch + positions, 0.0f);
  }
}

// X of the first channel of a conv group, from the first of the images on.
const float* FirstChannel(const Job& job, int64_t group) {
  const int64_t channels = job.weights.shape().channels;
  return job.x + (job.first_image * channels + group * job.weights.channels_per_group()) *
                     job.plan.geometry.in_plane();
}

// Unit = (tile, conv group): the channels are the rows of S.
void CopyUnit(const Job& job, size_t unit) {
  const Runs& layout = job.plan.runs;
  const int64_t groups = job.weights.shape().group;
  const int64_t group = static_cast<int64_t>(unit) % groups;
  const ProjectTile& tile =
      job.group.project.tiles[static_cast<size_t>(static_cast<int64_t>(unit) / groups)];
  const int64_t depth = job.weights.channels_per_group();
  float* const runs =
      job.s + (group * depth * layout.phases + tile.phase) * layout.length + tile.position;
  Pack(job, tile, FirstChannel(job, group), depth, runs, layout.phases * layout.length);
  ZeroBorders(job, tile, runs, depth);
}

// Unit = (tile, conv group, block of panels), the last fastest.
void ProjectUnit(const Job& job, size_t unit) {
  const Plan& plan = job.plan;
  const auto index = static_cast<int64_t>(unit);
  const int64_t groups = job.weights.shape().group;
  const int64_t block = index % plan.panel_blocks;
  const int64_t group = index / plan.panel_blocks % groups;
  const ProjectTile& tile =
      job.group.project.tiles[static_cast<size_t>(index / plan.panel_blocks / groups)];

  const int64_t panels = job.weights.panels_per_group();
  const int64_t panel_begin = block * panels / plan.panel_blocks;
  const int64_t panel_end = (block + 1) * panels / plan.panel_blocks;
  const int64_t depth = job.weights.channels_per_group();
  const float* const x = FirstChannel(job, group);
  alignas(kCacheLine) float packed[kPackFloats];

  for (int64_t begin = 0; begin < depth; begin += plan.depth_block) {
    const auto block_depth = static_cast<int>(std::min(plan.depth_block, depth - begin));
    Pack(job, tile, x + begin * plan.geometry.in_plane(), block_depth, packed,
         tile.n_vectors * job.kernels.project.lanes);
    const ProjectTask task = {nullptr, packed, block_depth, 0, tile.n_vectors, false, nullptr, 0};
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      ProjectPanel(job, tile, group, panel, begin, task);
    }
  }
}

// Unit = (conv group, panel). The pixel is position 0 of each run.
void ProjectPixelUnit(const Job& job, size_t unit) {
  const int64_t panels = job.weights.panels_per_group();
  const int64_t group = static_cast<int64_t>(unit) / panels;
  const int64_t panel = static_cast<int64_t>(unit) % panels;
  const int64_t depth = job.weights.channels_per_group();
  const int64_t size = job.weights.shape().dictionary_size;
  const int64_t length = job.plan.runs.length;
  float sums[kPanelRows];
  job.kernels.project.project_pixel(
      {job.weights.panel(group, panel, 0), job.x + group * depth, depth, sums});
  const int64_t rows = std::min<int64_t>(kPanelRows, size - panel * kPanelRows);
  for (int64_t r = 0; r < rows; ++r) {
    float* const run = job.s + (group * size + panel * kPanelRows + r) * length;
    std::fill(run, run + length, 0.0f);
    run[0] = sums[r];
  }
}

}  // namespace

void RunProject(const Job& job, const ParallelFor& parallel_for) {
  const Plan& plan = job.plan;
  const auto groups = static_cast<size_t>(job.weights.shape().group);
  const auto panels = static_cast<size_t>(job.weights.panels_per_group());
  const size_t tiles = job.group.project.tiles.size();
  const int64_t macs = plan.project_macs / plan.geometry.in.batch * job.group.images;
  const auto run = [&](size_t units, void (*unit)(const Job&, size_t)) {
    RunUnits(parallel_for, macs >= kMinParallelMacs, units, unit, job);
  };
  switch (plan.project_mode) {
    case ProjectMode::kNothing:
      return;
    case ProjectMode::kPixel:
      return run(groups * panels, ProjectPixelUnit);
    case ProjectMode::kCopy:
      return run(tiles * groups, CopyUnit);
    case ProjectMode::kPanels:
      return run(tiles * groups * static_cast<size_t>(plan.panel_blocks), ProjectUnit);
  }
}

}  // namespace lcnn
