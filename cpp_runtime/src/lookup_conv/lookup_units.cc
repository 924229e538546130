// Stage 2.
#include <algorithm>

#include "base/transpose.h"
#include "lookup_conv/job.h"
#include "max_pool/pool_rows.h"

namespace lcnn {
namespace {

// Where the results of a unit go: filter o of the block to y + (o - first) * plane. The residual,
// unless it is a constant, lies likewise.
struct Target {
  float* y;
  const float* residual;  // null: a constant
  int64_t plane;
};

// A thread's part of scratch; null in layers whose units need none.
struct Workspace {
  float* copy;
  float* sums;
  float* results;
  float* residual;
};

Workspace WorkspaceOf(const ThreadFloats& floats, float* part) {
  if (part == nullptr) return {};
  float* const sums = part + floats.copy;
  float* const results = sums + floats.sums;
  return {part, sums, results, results + floats.results};
}

// Copies what the tile reads of the dictionary rows [begin, end), one conv group.
void CopyRows(const Job& job, const LookupTile& tile, int64_t begin, int64_t end, float* copy) {
  const Plan& plan = job.plan;
  const int64_t lanes = plan.tiling.lanes;
  const int64_t length = plan.runs.length;
  for (int64_t row = begin; row < end; ++row) {
    const float* const from = job.s + row * plan.runs.phases * length + tile.position;
    for (const CopiedPiece& piece : plan.copy.pieces) {
      const float* const first = from + piece.phase * length + piece.shift;
      std::copy(first, first + (tile.n_vectors + piece.vectors) * lanes, copy);
      copy += (plan.tiling.vectors + piece.vectors) * lanes;
    }
  }
}

void LookupParts(const Job& job, const LookupTile& tile, const Workspace& space, LookupTask task) {
  const int64_t parts = job.weights.parts();
  const bool copied = !job.plan.copy.pieces.empty();
  if (copied) task.s = space.copy;
  task.sums = parts > 1 ? space.sums : nullptr;
  for (int64_t part = 0; part < parts; ++part) {
    if (copied) {
      CopyRows(job, tile, job.weights.part_row(part), job.weights.part_row(part + 1), space.copy);
    }
    task.first = part == 0;
    task.last = part + 1 == parts;
    task.entry_begin = job.weights.entry_begin(part);
    job.kernels.lookup.own.lookup(task);
  }
}

void LookUp(const Job& job, const LookupTile& tile, size_t block, const Workspace& space,
            const Target& target) {
  const Plan& plan = job.plan;
  const LookupConvShape& shape = job.weights.shape();
  const LaneMaps& lanes = job.group.lookup.lanes;
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
  task.maps = lanes.maps.data() + tile.first_map;
  task.indices = lanes.indices.data();
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
    LookupParts(job, tile, space, task);
  } else {
    job.weights.KernelOf(job.kernels.lookup).lookup(task);
  }
}

// A tile or band, and a block of filters, the latter fastest.
struct Unit {
  size_t place;
  size_t block;
  int64_t filter;
  int64_t filters;
};

Unit UnitOf(const Plan& plan, size_t index) {
  const size_t blocks = plan.filter_blocks.size() - 1;
  const size_t block = index % blocks;
  const int64_t filter = plan.filter_blocks[block];
  return {index / blocks, block, filter, plan.filter_blocks[block + 1] - filter};
}

void PlanesUnit(const Job& job, float* part, size_t index) {
  const Plan& plan = job.plan;
  const Unit unit = UnitOf(job.plan, index);
  const Workspace space = WorkspaceOf(job.plan.thread_floats, part);
  const int64_t plane = plan.geometry.out_plane();
  const int64_t first = unit.filter * plane;
  const float* const residual = job.residual.tensor;
  const bool waits = plan.tiling.mode == ResultMode::kAllRows;
  float* const y = waits ? job.s + plan.results_begin() : job.y + job.First(plane);
  LookUp(job, job.group.lookup.tiles[unit.place], unit.block, space,
         {y + first, residual == nullptr ? nullptr : residual + job.First(plane) + first, plane});
}

// As PlanesUnit, of images of one pixel: a vector of results belongs to as many rows of Y, so they
// are transposed where they lie in cache.
void MatrixUnit(const Job& job, float* part, size_t index) {
  const Unit unit = UnitOf(job.plan, index);
  const Workspace space = WorkspaceOf(job.plan.thread_floats, part);
  const LookupTile& tile = job.group.lookup.tiles[unit.place];
  const int64_t pitch = job.weights.shape().out_channels;
  const int64_t positions = tile.n_vectors * job.plan.tiling.lanes;
  const int64_t rows = std::min(positions, job.group.images - tile.position);
  const int64_t first = job.First(1) + tile.position * pitch + unit.filter;
  const bool adds = job.residual.tensor != nullptr;
  if (adds) {
    Transpose(job.residual.tensor + first, pitch, rows, unit.filters, space.residual, kMatrixPitch);
  }
  LookUp(job, tile, unit.block, space,
         {space.results, adds ? space.residual : nullptr, kMatrixPitch});
  Transpose(space.results, kMatrixPitch, unit.filters, rows, job.y + first, pitch);
}

void BandUnit(const Job& job, float* part, size_t index) {
  const Geometry& geometry = job.plan.geometry;
  const LookupConvShape& shape = job.weights.shape();
  const Unit unit = UnitOf(job.plan, index);
  const Workspace space = WorkspaceOf(job.plan.thread_floats, part);
  const Band& band = job.group.lookup.bands[unit.place];
  const int64_t rows = band.row_end - band.row_begin;
  const int64_t columns = geometry.out_width();
  const int64_t pooled = geometry.pooled_plane();
  float* const results = space.results;
  for (size_t tile = band.first_tile; tile < band.end_tile; ++tile) {
    LookUp(job, job.group.lookup.tiles[tile], unit.block, space,
           {results, nullptr, rows * columns});
  }
  float* const y =
      job.y + job.First(pooled) + (band.image * shape.out_channels + unit.filter) * pooled;
  PoolRows(
      {shape.pool_height, shape.pool_width}, job.kernels.pool,
      {results, rows * columns, rows, columns,
       band.pool_begin * shape.pool_height.stride - shape.pool_height.pad_begin - band.row_begin,
       y + band.pool_begin * geometry.pooled_width, pooled, band.pool_end - band.pool_begin,
       geometry.pooled_width, unit.filters});
}

}  // namespace

void RunLookup(const Job& job, const ParallelFor& parallel_for) {
  const Plan& plan = job.plan;
  const Geometry& geometry = plan.geometry;
  const LookupConvShape& shape = job.weights.shape();
  const size_t blocks = plan.filter_blocks.size() - 1;
  const int64_t macs = plan.lookup_macs / geometry.in.batch * job.group.images;
  const auto run = [&](size_t places, void (*unit)(const Job&, float*, size_t)) {
    RunUnits(parallel_for, macs >= kMinParallelMacs, places * blocks, &job.threads, unit, job);
  };
  switch (plan.tiling.mode) {
    case ResultMode::kPlanes:
      return run(job.group.lookup.tiles.size(), PlanesUnit);
    case ResultMode::kMatrix:
      return run(job.group.lookup.tiles.size(), MatrixUnit);
    case ResultMode::kBands:
      return run(job.group.lookup.bands.size(), BandUnit);
    case ResultMode::kAllRows:
      run(job.group.lookup.tiles.size(), PlanesUnit);
      return PoolPlanes(
          {shape.pool_height, shape.pool_width}, job.kernels.pool,
          {job.group.images * shape.out_channels, geometry.out_height(), geometry.out_width(),
           job.s + plan.results_begin(), job.y + job.First(geometry.pooled_plane())},
          parallel_for);
  }
}

}  // namespace lcnn
