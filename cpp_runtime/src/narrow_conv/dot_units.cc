#include "narrow_conv/dot_units.h"

#include <algorithm>

#include "base/geometry.h"
#include "base/run_units.h"
#include "base/transpose.h"

namespace lcnn {
namespace {

// Pixels of a unit: floats are transposed from the first-level cache.
constexpr int64_t kChunkPixels = 128;
constexpr int64_t kFloatPixels = 48;
// Weights that stay in the second-level cache while all pixels go by.
constexpr int64_t kCachedWeights = 256 * 1024;
// Multiply-adds that take less time than waking threads.
constexpr int64_t kThreadMacs = 2 * 1000 * 1000;

struct Cut {
  const DotJob& job;
  int64_t of_row;   // chunks of a group of rows
  int64_t of_rows;  // groups of rows
  int64_t rows;
  bool filters_first;  // all chunks for some filters, then the next filters
  bool in_threads;     // of a pool

  int64_t chunks() const { return of_row * of_rows; }
};

// Whole rows where they are short, or parts of one. Equally large but for a row or a pixel.
Cut CutOf(const DotJob& job) {
  const bool floats = job.result == Result::kFloats || job.result == Result::kHalves;
  const int64_t most = floats ? kFloatPixels : kChunkPixels;
  const int64_t rows = job.grid.images * job.grid.height;
  const int64_t rows_of_chunk = std::max<int64_t>(1, most / job.grid.width);
  return {job,  CeilDiv(job.grid.width, most),     CeilDiv(rows, rows_of_chunk),
          rows, job.stage.macs() > kCachedWeights, false};
}

int64_t ChunkBegin(const Cut& cut, int64_t chunk) {
  const int64_t width = cut.job.grid.width;
  const int64_t row = cut.rows * (chunk / cut.of_row) / cut.of_rows;
  return row * width + width * (chunk % cut.of_row) / cut.of_row;
}

// From the results of some pixels to where they belong in the planes of Y.
void StoreFloats(const DotJob& job, int64_t first, int64_t filters, const float* results,
                 int64_t begin, int64_t end) {
  const int64_t plane = job.grid.height * job.grid.width;
  while (begin < end) {
    const int64_t image = begin / plane;
    const int64_t stop = std::min(end, (image + 1) * plane);
    float* const y = job.floats + (image * job.filters + first) * plane + begin % plane;
    Transpose(results, kPartFilters, stop - begin, filters, y, plane);
    results += (stop - begin) * kPartFilters;
    begin = stop;
  }
}

// From the results of some pixels to their places, rounded.
void StoreHalves(const DotJob& job, int64_t first, int64_t filters, const float* results,
                 int64_t begin, int64_t end) {
  int64_t offsets[kFloatPixels];
  FillOffsets(job.grid, job.to, begin, end - begin, offsets);
  for (int64_t p = 0; p < end - begin; ++p) {
    auto* const pixel = reinterpret_cast<uint16_t*>(job.narrow + offsets[p]);
    job.halves->round(results + p * kPartFilters, filters, pixel + first);
  }
}

// From the bytes of some pixels to planes of quads.
void StoreQuads(const DotJob& job, int64_t first, int64_t filters, const uint8_t* results,
                int64_t begin, int64_t end) {
  uint8_t* const quads = job.narrow + first / kQuad * job.quad_bytes;
  while (begin < end) {
    const int64_t stop = std::min(end, (begin / job.grid.width + 1) * job.grid.width);
    int64_t place;
    FillOffsets(job.grid, job.to, begin, 1, &place);
    TransposeWords(results, kPartFilters / kQuad, stop - begin, CeilDiv(filters, kQuad),
                   quads + place, job.quad_bytes / kQuad);
    results += (stop - begin) * kPartFilters;
    begin = stop;
  }
}

// Some filters, and pixels [begin, end).
template <class Task, class Kernels>
void RunTask(const DotJob& job, int64_t first, int64_t begin, int64_t end, const Kernels& kernels,
             Task task) {
  int64_t x_offsets[kChunkPixels], y_offsets[kChunkPixels];
  FillOffsets(job.grid, job.from, begin, end - begin, x_offsets);
  task.x_offsets = x_offsets;
  task.row_bytes = job.row_bytes;
  task.pixels = end - begin;
  task.low = job.limits.low;
  task.high = job.limits.high;
  task.zero = job.limits.zero;
  task.y_offsets = y_offsets;
  if (job.result == Result::kNarrow) {
    FillOffsets(job.grid, job.to, begin, end - begin, y_offsets);
    const int64_t place = first * job.stage.element_bytes();
    task.residual = job.residual != nullptr ? job.residual + place : nullptr;
    task.residual_scale = job.limits.residual_scale;
    task.residual_zero = job.limits.residual_zero;
    task.y = job.narrow + place;
    kernels.to_narrow(task);
    return;
  }
  alignas(kCacheLine) float results[kFloatPixels * kPartFilters];
  for (int64_t p = 0; p < task.pixels; ++p) y_offsets[p] = p * kPartFilters;
  task.y = results;
  if (job.result == Result::kHalves) {
    kernels.to_floats(task);
    StoreHalves(job, first, task.filters, results, begin, end);
  } else if (job.result == Result::kFloats) {
    kernels.to_floats(task);
    StoreFloats(job, first, task.filters, results, begin, end);
  } else {
    kernels.to_narrow(task);
    StoreQuads(job, first, task.filters, reinterpret_cast<const uint8_t*>(results), begin, end);
  }
}

void Release(const DotJob& job) {
  const auto release = job.stage.dot_kernels().release;
  if (release != nullptr) release();
}

void Unit(const Cut& cut, size_t unit) {
  const DotJob& job = cut.job;
  const int64_t parts = job.stage.parts();
  const auto i = static_cast<int64_t>(unit);
  const int64_t chunk = cut.filters_first ? i % cut.chunks() : i / parts;
  const int64_t part = cut.filters_first ? i / cut.chunks() : i % parts;
  const int64_t begin = ChunkBegin(cut, chunk), end = ChunkBegin(cut, chunk + 1);
  if (job.stage.dots() != nullptr) {
    const DotPart& filters = job.stage.dots()->parts()[static_cast<size_t>(part)];
    DotTask task = job.stage.dots()->Task(filters);
    task.x = job.x;
    task.width = job.grid.width;
    task.column = begin % job.grid.width;
    task.x_step = job.from.pixel;
    RunTask(job, filters.first, begin, end, job.stage.dot_kernels(), task);
    if (cut.in_threads) Release(job);
    return;
  }
  const PackedDepth& depth = *job.stage.depth();
  const int64_t first = part * kPartFilters;
  DepthTask task = depth.Task(first, std::min(kPartFilters, depth.filters() - first));
  task.x = job.x + first;
  RunTask(job, first, begin, end, depth.kernels(), task);
}

}  // namespace

void RunDots(const DotJob& job, const ParallelFor& parallel_for) {
  const int64_t pixels = job.grid.pixels();
  if (pixels == 0) return;
  Cut cut = CutOf(job);
  const auto units = static_cast<size_t>(cut.chunks() * job.stage.parts());
  const bool worth_threads = job.stage.macs() * pixels >= kThreadMacs;
  cut.in_threads = InThreads(parallel_for, worth_threads, units);
  RunUnits<Cut>(parallel_for, worth_threads, units, Unit, cut);
  if (!cut.in_threads) Release(job);
}

}  // namespace lcnn
