#include "max_pool/pool_rows.h"

#include <algorithm>
#include <limits>

#include "base/aligned_buffer.h"
#include "base/geometry.h"
#include "base/run_units.h"

namespace lcnn {
namespace {

// Columns of a row of windows that are held at a time.
constexpr int64_t kBufferColumns = 1024;
// Below this a parallel loop costs more than it gains.
constexpr int64_t kMinParallelPixels = 256 * 1024;
constexpr int64_t kUnits = 8;

struct PoolJob {
  const MaxPoolShape& shape;
  const PoolKernels& kernels;
  const PooledPlanes& all;
  int64_t out_height;
  int64_t out_width;
  int64_t units;
};

// Some columns of outputs, as many as the buffer holds.
void PoolColumns(const MaxPoolShape& shape, const PoolKernels& kernels, const PooledRows& all,
                 int64_t out, int64_t outputs) {
  const Axis& columns = shape.width;
  const int64_t left = out * columns.stride - columns.pad_begin;
  const int64_t span = (outputs - 1) * columns.stride + columns.kernel;
  const int64_t first = std::max<int64_t>(0, left);
  const int64_t before = first - left;
  const int64_t pixels = std::min(all.in_width, left + span) - first;
  const int64_t pitch = RoundUp(span, kMaxLanes);
  const int64_t at_once = kBufferColumns / pitch;
  alignas(kCacheLine) float buffer[kBufferColumns];
  std::fill(buffer, buffer + kBufferColumns, -std::numeric_limits<float>::infinity());
  for (int64_t plane = 0; plane < all.planes; ++plane) {
    for (int64_t row = 0; row < all.out_height; row += at_once) {
      kernels.pool({all.x + plane * all.x_plane + first, all.in_width, all.in_height,
                    all.top + row * shape.height.stride, shape.height.stride, shape.height.kernel,
                    std::min(at_once, all.out_height - row), pixels, before, buffer, pitch,
                    columns.kernel, columns.stride, outputs,
                    all.y + plane * all.y_plane + row * all.out_width + out, all.out_width});
    }
  }
}

// Unit = block of planes.
void PoolUnit(const PoolJob& job, size_t unit) {
  const auto index = static_cast<int64_t>(unit);
  const PooledPlanes& all = job.all;
  const int64_t begin = all.planes * index / job.units;
  const int64_t in_plane = all.in_height * all.in_width;
  const int64_t out_plane = job.out_height * job.out_width;
  PoolRows(job.shape, job.kernels,
           {all.x + begin * in_plane, in_plane, all.in_height, all.in_width,
            -job.shape.height.pad_begin, all.y + begin * out_plane, out_plane, job.out_height,
            job.out_width, all.planes * (index + 1) / job.units - begin});
}

}  // namespace

void PoolRows(const MaxPoolShape& shape, const PoolKernels& kernels, const PooledRows& rows) {
  const int64_t at_once = (kBufferColumns - shape.width.kernel) / shape.width.stride + 1;
  for (int64_t out = 0; out < rows.out_width; out += at_once) {
    PoolColumns(shape, kernels, rows, out, std::min(at_once, rows.out_width - out));
  }
}

void PoolPlanes(const MaxPoolShape& shape, const PoolKernels& kernels, const PooledPlanes& planes,
                const ParallelFor& parallel_for) {
  const double pixels = static_cast<double>(planes.planes) * static_cast<double>(planes.in_height) *
                        static_cast<double>(planes.in_width);
  const bool parallel = parallel_for.run != nullptr && pixels >= kMinParallelPixels;
  const PoolJob job = {shape,
                       kernels,
                       planes,
                       OutputExtent(shape.height, planes.in_height, "height"),
                       OutputExtent(shape.width, planes.in_width, "width"),
                       parallel ? std::min(planes.planes, kUnits) : 1};
  RunUnits(parallel_for, parallel, static_cast<size_t>(job.units), PoolUnit, job);
}

}  // namespace lcnn
