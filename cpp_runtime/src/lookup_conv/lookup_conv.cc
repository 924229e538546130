// Runs plans: for each group of images stage 1, then stage 2, each as one parallel loop over units
// of work.
#include "lcnn/lookup_conv.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>

#include "base/dispatch.h"
#include "lookup_conv/packed_weights.h"
#include "lookup_conv/plan.h"
#include "max_pool/pool_rows.h"

namespace lcnn {

// The plans of the last few input sizes, most recent first.
class PlanCache {
 public:
  std::shared_ptr<const Plan> Find(int64_t batch, int64_t height, int64_t width) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(plans_.begin(), plans_.end(), [&](const auto& plan) {
      return plan->batch == batch && plan->in_height == height && plan->in_width == width;
    });
    if (found == plans_.end()) return nullptr;
    std::rotate(plans_.begin(), found, found + 1);
    return plans_.front();
  }

  void Add(std::shared_ptr<const Plan> plan) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (plans_.size() == kCapacity) plans_.pop_back();
    plans_.insert(plans_.begin(), std::move(plan));
  }

 private:
  static constexpr size_t kCapacity = 8;
  std::mutex mutex_;
  std::vector<std::shared_ptr<const Plan>> plans_;
};

namespace {

// One Run: what the units of work share.
struct Job {
  const PackedWeights& weights;
  const Plan& plan;
  const KernelSet& kernels;
  Residual residual;
  const float* x;
  float* y;
  float* s;
  const ImageGroup* group;
  int64_t first_image;

  // The group's first value in a tensor (batch, out_channels, plane).
  int64_t First(int64_t plane) const { return first_image * weights.shape().out_channels * plane; }
};

// Where the results of a unit of stage 2 go: filter o of the block to y + (o - first) * plane. The
// residual, unless it is a constant, lies likewise.
struct Target {
  float* y;
  const float* residual;
  int64_t plane;
};

// Values [begin, begin + depth) x kPanelRows of a panel, widened into `buffer` if they are not
// float32.
const float* PanelBlock(const Job& job, int64_t group, int64_t panel, int64_t begin, int64_t depth,
                        float* buffer) {
  const PanelValues values = job.weights.panel(group, panel, begin);
  if (values.floats != nullptr) return values.floats;
  job.kernels.project->widen(values, depth * kPanelRows, buffer);
  return buffer;
}

// Writes the zeros around a tile of `rows` runs.
void ZeroBorders(const Job& job, const ProjectTile& tile, float* runs, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    float* const run = runs + r * job.plan.phases * job.plan.run_length;
    std::fill(run - tile.zero_before, run, 0.0f);
    float* const end = run + tile.n_vectors * job.kernels.project->lanes;
    std::fill(end, end + tile.zero_after, 0.0f);
  }
}

void ProjectPanel(const Job& job, const ProjectTile& tile, int64_t group, int64_t panel,
                  int64_t depth_begin, ProjectTask task) {
  const Plan& plan = job.plan;
  const int64_t size = job.weights.shape().dictionary_size;
  const int64_t row = panel * kPanelRows;
  alignas(kCacheLine) float widened[kMaxDepthBlock * kPanelRows];
  task.panel = PanelBlock(job, group, panel, depth_begin, task.depth, widened);
  task.rows = static_cast<int>(std::min<int64_t>(kPanelRows, size - row));
  task.accumulate = depth_begin > 0;
  task.s_pitch = plan.phases * plan.run_length;
  float* const runs =
      job.s + ((group * size + row) * plan.phases + tile.phase) * plan.run_length + tile.position;
  task.s = runs;
  job.kernels.project->project(task);
  if (depth_begin == 0) ZeroBorders(job, tile, runs, task.rows);
}

using Four = float __attribute__((vector_size(16)));
#ifdef __clang__
#define LCNN_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
using FourIndices = int32_t __attribute__((vector_size(16)));
#define LCNN_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, FourIndices{__VA_ARGS__})
#endif

void TransposeFour(const float* from, int64_t from_pitch, float* to, int64_t to_pitch) {
  Four in[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&in[i], from + i * from_pitch, sizeof(Four));
  const Four low01 = LCNN_SHUFFLE(in[0], in[1], 0, 4, 1, 5);
  const Four low23 = LCNN_SHUFFLE(in[2], in[3], 0, 4, 1, 5);
  const Four high01 = LCNN_SHUFFLE(in[0], in[1], 2, 6, 3, 7);
  const Four high23 = LCNN_SHUFFLE(in[2], in[3], 2, 6, 3, 7);
  const Four out[4] = {
      LCNN_SHUFFLE(low01, low23, 0, 1, 4, 5), LCNN_SHUFFLE(low01, low23, 2, 3, 6, 7),
      LCNN_SHUFFLE(high01, high23, 0, 1, 4, 5), LCNN_SHUFFLE(high01, high23, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_pitch, &out[i], sizeof(Four));
}
#undef LCNN_SHUFFLE

// to[c * to_pitch + r] = from[r * from_pitch + c], so many rows at a time as make a cache line:
// rows whose distance is a power of two share few sets.
void Transpose(const float* from, int64_t from_pitch, int64_t rows, int64_t columns, float* to,
               int64_t to_pitch) {
  constexpr int64_t kBlock = kCacheLine / sizeof(float);
  for (int64_t begin = 0; begin < rows; begin += kBlock) {
    const int64_t end = std::min(rows, begin + kBlock);
    const int64_t whole = begin + (end - begin) / 4 * 4;
    for (int64_t c = 0; c < columns; c += 4) {
      const int64_t last = std::min(columns, c + 4);
      const int64_t fours = last == c + 4 ? whole : begin;
      for (int64_t r = begin; r < fours; r += 4) {
        TransposeFour(from + r * from_pitch + c, from_pitch, to + c * to_pitch + r, to_pitch);
      }
      for (int64_t column = c; column < last; ++column) {
        for (int64_t r = fours; r < end; ++r) {
          to[column * to_pitch + r] = from[r * from_pitch + column];
        }
      }
    }
  }
}

// Packs the tile's pixels of `depth` channels from x on: packed[i * pitch + p].
void Pack(const Job& job, const ProjectTile& tile, const float* x, int64_t depth, float* packed,
          int64_t pitch) {
  const Plan& plan = job.plan;
  if (!plan.rows) {
    job.kernels.project->pack({x, plan.in_height * plan.in_width, static_cast<int>(depth),
                               job.group->project_maps.data() + tile.first_map,
                               job.group->project_indices.data(), tile.n_vectors, packed, pitch});
    return;
  }
  const int64_t positions = tile.n_vectors * job.kernels.project->lanes;
  const int64_t rows = std::min(positions, job.group->images - tile.position);
  const int64_t channels = job.weights.shape().channels;
  Transpose(x + tile.position * channels, channels, rows, depth, packed, pitch);
  for (int64_t i = 0; i < depth; ++i) {
    std::fill(packed + i * pitch + rows, packed + i * pitch + positions, 0.0f);
  }
}

// Unit = (tile, conv group): the channels are the rows of S.
void CopyUnit(void* argument, size_t unit) {
  const Job& job = *static_cast<const Job*>(argument);
  const Plan& plan = job.plan;
  const int64_t groups = job.weights.shape().group;
  const int64_t group = static_cast<int64_t>(unit) % groups;
  const ProjectTile& tile =
      job.group->project_tiles[static_cast<size_t>(static_cast<int64_t>(unit) / groups)];
  const int64_t depth = job.weights.channels_per_group();
  const int64_t plane = plan.in_height * plan.in_width;
  float* const runs =
      job.s + (group * depth * plan.phases + tile.phase) * plan.run_length + tile.position;
  Pack(job, tile, job.x + (job.first_image * job.weights.shape().channels + group * depth) * plane,
       depth, runs, plan.phases * plan.run_length);
  ZeroBorders(job, tile, runs, depth);
}

// Unit = (tile, conv group, block of panels), the last fastest.
void ProjectUnit(void* argument, size_t unit) {
  const Job& job = *static_cast<const Job*>(argument);
  const Plan& plan = job.plan;
  const auto index = static_cast<int64_t>(unit);
  const int64_t groups = job.weights.shape().group;
  const int64_t block = index % plan.panel_blocks;
  const int64_t group = index / plan.panel_blocks % groups;
  const ProjectTile& tile =
      job.group->project_tiles[static_cast<size_t>(index / plan.panel_blocks / groups)];

  const int64_t panels = job.weights.panels_per_group();
  const int64_t panel_begin = block * panels / plan.panel_blocks;
  const int64_t panel_end = (block + 1) * panels / plan.panel_blocks;
  const int64_t depth = job.weights.channels_per_group();
  const int64_t plane = plan.in_height * plan.in_width;
  const float* const x =
      job.x + (job.first_image * job.weights.shape().channels + group * depth) * plane;
  alignas(kCacheLine) float packed[kPackFloats];

  for (int64_t begin = 0; begin < depth; begin += plan.depth_block) {
    const auto block_depth = static_cast<int>(std::min(plan.depth_block, depth - begin));
    Pack(job, tile, x + begin * plane, block_depth, packed,
         tile.n_vectors * job.kernels.project->lanes);
    const ProjectTask task = {nullptr, packed, block_depth, 0, tile.n_vectors, false, nullptr, 0};
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      ProjectPanel(job, tile, group, panel, begin, task);
    }
  }
}

// Unit = (conv group, panel). The pixel is position 0 of each run.
void ProjectPixelUnit(void* argument, size_t unit) {
  const Job& job = *static_cast<const Job*>(argument);
  const int64_t panels = job.weights.panels_per_group();
  const int64_t group = static_cast<int64_t>(unit) / panels;
  const int64_t panel = static_cast<int64_t>(unit) % panels;
  const int64_t depth = job.weights.channels_per_group();
  const int64_t size = job.weights.shape().dictionary_size;
  float sums[kPanelRows];
  job.kernels.project->project_pixel(
      {job.weights.panel(group, panel, 0), job.x + group * depth, depth, sums});
  const int64_t rows = std::min<int64_t>(kPanelRows, size - panel * kPanelRows);
  for (int64_t r = 0; r < rows; ++r) {
    float* const run = job.s + (group * size + panel * kPanelRows + r) * job.plan.run_length;
    std::fill(run, run + job.plan.run_length, 0.0f);
    run[0] = sums[r];
  }
}

// Copies what the tile reads of the dictionary rows [begin, end), one conv group.
void CopyRows(const Job& job, const LookupTile& tile, int64_t begin, int64_t end, float* copy) {
  const Plan& plan = job.plan;
  const int64_t lanes = job.kernels.project->lanes;
  for (int64_t row = begin; row < end; ++row) {
    const float* const from = job.s + row * plan.phases * plan.run_length + tile.position;
    for (const CopiedPiece& piece : plan.pieces) {
      const int64_t floats = (tile.n_vectors + piece.vectors) * lanes;
      std::copy(from + piece.offset, from + piece.offset + floats, copy);
      copy += (plan.tile_vectors + piece.vectors) * lanes;
    }
  }
}

void LookupParts(const Job& job, const LookupTile& tile, LookupTask task) {
  alignas(kCacheLine) float copy[kMaxCopiedPlaces * kMaxTileVectors * kMaxLanes];
  alignas(kCacheLine) float sums[kMaxWaitingFilters * kMaxTileVectors * kMaxLanes];
  const int64_t parts = job.weights.parts();
  const bool copied = !job.plan.pieces.empty();
  if (copied) task.s = copy;
  task.sums = parts > 1 ? sums : nullptr;
  for (int64_t part = 0; part < parts; ++part) {
    if (copied) {
      CopyRows(job, tile, job.weights.part_row(part), job.weights.part_row(part + 1), copy);
    }
    task.first = part == 0;
    task.last = part + 1 == parts;
    task.entry_begin = job.weights.entry_begin(part);
    job.kernels.lookup->own.lookup(task);
  }
}

void LookUp(const Job& job, const LookupTile& tile, size_t block, const Target& target) {
  const Plan& plan = job.plan;
  const LookupConvShape& shape = job.weights.shape();
  LookupTask task;
  task.s = job.s + tile.position;
  task.filter_begin = plan.filter_blocks[block];
  task.filter_end = plan.filter_blocks[block + 1];
  task.bias = job.weights.bias();
  task.first = task.last = true;
  task.sums = nullptr;
  task.entry_begin = job.weights.entry_begin(0);
  task.coefficients = job.weights.coefficients().data();
  task.offsets = plan.offsets.data();
  task.maps = job.group->lookup_maps.data() + tile.first_map;
  task.indices = job.group->lookup_indices.data();
  task.n_vectors = tile.n_vectors;
  const int64_t first = task.filter_begin * target.plane;  // the kernel counts from filter 0
  task.residual = target.residual == nullptr ? nullptr : target.residual - first;
  task.constant = job.residual.constant;
  task.clip_min = shape.clip_min;
  task.clip_max = shape.clip_max;
  task.hard_swish = shape.hard_swish;
  task.y = target.y - first;
  task.plane = target.plane;
  if (job.weights.cut()) {
    LookupParts(job, tile, task);
  } else {
    job.weights.KernelOf(*job.kernels.lookup).lookup(task);
  }
}

// Unit = (tile, block of filters), the latter fastest.
void LookupUnit(void* argument, size_t unit) {
  const Job& job = *static_cast<const Job*>(argument);
  const Plan& plan = job.plan;
  const size_t blocks = plan.filter_blocks.size() - 1;
  const int64_t plane = plan.out_height * plan.out_width;
  const int64_t first = plan.filter_blocks[unit % blocks] * plane;
  const float* const residual = job.residual.tensor;
  float* const y = plan.unpooled >= 0 ? job.s + plan.unpooled : job.y + job.First(plane);
  LookUp(job, job.group->lookup_tiles[unit / blocks], unit % blocks,
         {y + first, residual == nullptr ? nullptr : residual + job.First(plane) + first, plane});
}

// As LookupUnit, of images of one pixel: a vector of results belongs to as many rows of Y, so they
// are transposed where they lie in cache.
void RowsUnit(void* argument, size_t unit) {
  const Job& job = *static_cast<const Job*>(argument);
  const Plan& plan = job.plan;
  const size_t blocks = plan.filter_blocks.size() - 1;
  const LookupTile& tile = job.group->lookup_tiles[unit / blocks];
  const int64_t filter = plan.filter_blocks[unit % blocks];
  const int64_t filters = plan.filter_blocks[unit % blocks + 1] - filter;
  const int64_t pitch = job.weights.shape().out_channels;
  const int64_t positions = tile.n_vectors * job.kernels.project->lanes;
  const int64_t rows = std::min(positions, job.group->images - tile.position);
  const int64_t first = job.First(1) + tile.position * pitch + filter;
  constexpr int64_t kPlane = kMaxTileVectors * kMaxLanes;
  alignas(kCacheLine) float held[kRowFilters * kPlane];
  alignas(kCacheLine) float residual[kRowFilters * kPlane];
  const bool adds = job.residual.tensor != nullptr;
  if (adds) Transpose(job.residual.tensor + first, pitch, rows, filters, residual, kPlane);
  LookUp(job, tile, unit % blocks, {held, adds ? residual : nullptr, kPlane});
  Transpose(held, kPlane, filters, rows, job.y + first, pitch);
}

// Unit = (band, block of filters), the latter fastest.
void PooledUnit(void* argument, size_t unit) {
  const Job& job = *static_cast<const Job*>(argument);
  const Plan& plan = job.plan;
  const LookupConvShape& shape = job.weights.shape();
  const size_t blocks = plan.filter_blocks.size() - 1;
  const size_t block = unit % blocks;
  const Band& band = job.group->bands[unit / blocks];
  const int64_t rows = band.row_end - band.row_begin;
  const int64_t pooled = plan.pooled_height * plan.pooled_width;
  const int64_t filter = plan.filter_blocks[block];
  alignas(kCacheLine) float held[kBandFloats];
  for (size_t tile = band.first_tile; tile < band.end_tile; ++tile) {
    LookUp(job, job.group->lookup_tiles[tile], block, {held, nullptr, rows * plan.out_width});
  }
  float* const y = job.y + job.First(pooled) + (band.image * shape.out_channels + filter) * pooled;
  PoolRows(
      {shape.pool_height, shape.pool_width}, *job.kernels.pool,
      {held, rows * plan.out_width, rows, plan.out_width,
       band.pool_begin * shape.pool_height.stride - shape.pool_height.pad_begin - band.row_begin,
       y + band.pool_begin * plan.pooled_width, pooled, band.pool_end - band.pool_begin,
       plan.pooled_width, plan.filter_blocks[block + 1] - filter});
}

void RunUnits(const ParallelFor& parallel_for, int64_t macs, size_t units,
              void (*unit)(void*, size_t), Job* job) {
  if (parallel_for.run != nullptr && units > 1 && macs >= kMinParallelMacs) {
    parallel_for.run(parallel_for.context, units, unit, job);
    return;
  }
  for (size_t i = 0; i < units; ++i) unit(job, i);
}

double Milliseconds(std::chrono::steady_clock::time_point since) {
  const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - since;
  return passed.count();
}

void RunGroup(const ParallelFor& parallel_for, StageTimes* times, Job* job) {
  const Plan& plan = job->plan;
  const int64_t groups = job->weights.shape().group;
  const int64_t image_share = job->group->images;
  const auto tiles = static_cast<int64_t>(job->group->project_tiles.size());
  auto start = std::chrono::steady_clock::now();
  const int64_t project_macs = plan.project_macs / plan.batch * image_share;
  if (plan.single_pixel) {
    RunUnits(parallel_for, project_macs,
             static_cast<size_t>(groups * job->weights.panels_per_group()), ProjectPixelUnit, job);
  } else if (job->weights.identity()) {
    RunUnits(parallel_for, project_macs, static_cast<size_t>(tiles * groups), CopyUnit, job);
  } else if (job->weights.panels_per_group() > 0) {
    RunUnits(parallel_for, project_macs, static_cast<size_t>(tiles * groups * plan.panel_blocks),
             ProjectUnit, job);
  }
  if (times != nullptr) times->project_ms += Milliseconds(start);

  start = std::chrono::steady_clock::now();
  const size_t blocks = plan.filter_blocks.size() - 1;
  const int64_t lookup_macs = plan.lookup_macs / plan.batch * image_share;
  if (job->group->bands.empty()) {
    RunUnits(parallel_for, lookup_macs, job->group->lookup_tiles.size() * blocks,
             plan.rows ? RowsUnit : LookupUnit, job);
  } else {
    RunUnits(parallel_for, lookup_macs, job->group->bands.size() * blocks, PooledUnit, job);
  }
  if (plan.unpooled >= 0) {
    const LookupConvShape& shape = job->weights.shape();
    MaxPool({shape.pool_height, shape.pool_width}, job->kernels.isa,
            image_share * shape.out_channels, plan.out_height, plan.out_width,
            job->s + plan.unpooled, job->y + job->First(plan.pooled_height * plan.pooled_width),
            parallel_for);
  }
  if (times != nullptr) times->lookup_ms += Milliseconds(start);
}

std::vector<float> WidenedValues(const PanelValues& values, size_t count) {
  std::vector<float> floats(count);
  KernelsFor(Isa::kScalar).project->widen(values, static_cast<int64_t>(count), floats.data());
  return floats;
}

}  // namespace

LookupConv::LookupConv(const LookupConvShape& shape, const LookupConvConstants& constants, Isa isa)
    : weights_(std::make_unique<PackedWeights>(shape, constants)),
      plans_(std::make_unique<PlanCache>()),
      isa_(KernelsFor(isa).isa) {}

LookupConv::~LookupConv() = default;

const LookupConvShape& LookupConv::shape() const { return weights_->shape(); }

int64_t LookupConv::lookups() const { return weights_->lookups(); }

std::shared_ptr<const Plan> LookupConv::PlanFor(int64_t batch, int64_t height,
                                                int64_t width) const {
  std::shared_ptr<const Plan> plan = plans_->Find(batch, height, width);
  if (plan == nullptr) {
    // Two threads may both make the plan of a new size; either is right.
    const KernelSet& kernels = KernelsFor(isa_);
    plan = std::make_shared<const Plan>(
        MakePlan(*weights_, *kernels.project, *kernels.lookup, batch, height, width));
    plans_->Add(plan);
  }
  return plan;
}

void LookupConv::Run(const Plan& plan, const float* x, const Residual& residual, float* y,
                     void* scratch, const ParallelFor& parallel_for, StageTimes* times) const {
  float* const s = AlignToCacheLine(static_cast<float*>(scratch));
  Job job = {*weights_, plan, KernelsFor(isa_), residual, x, y, s, &plan.group, 0};
  for (; job.first_image + plan.group.images <= plan.batch; job.first_image += plan.group.images) {
    RunGroup(parallel_for, times, &job);
  }
  if (plan.last_group.images > 0) {
    job.group = &plan.last_group;
    RunGroup(parallel_for, times, &job);
  }
}

std::vector<float> Widened(const uint16_t* halves, size_t count) {
  return WidenedValues({nullptr, halves, nullptr}, count);
}

std::vector<float> Widened(const int8_t* bytes, size_t count) {
  return WidenedValues({nullptr, nullptr, bytes}, count);
}

size_t ScratchBytes(const Plan& plan) {
  return static_cast<size_t>(plan.scratch_floats) * sizeof(float) + kCacheLine;
}

int64_t ProjectMacs(const Plan& plan) { return plan.project_macs; }

int64_t LookupMacs(const Plan& plan) { return plan.lookup_macs; }

}  // namespace lcnn
