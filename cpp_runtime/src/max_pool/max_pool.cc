#include "lcnn/max_pool.h"

#include <algorithm>
#include <limits>

#include "base/aligned_buffer.h"
#include "base/dispatch.h"
#include "base/geometry.h"
#include "max_pool/pool_rows.h"

namespace lcnn {
namespace {

// Columns of a row of windows that are held at a time.
constexpr int64_t kBufferColumns = 1024;
// Below this a parallel loop costs more than it gains.
constexpr int64_t kMinParallelPixels = 256 * 1024;
constexpr int64_t kUnits = 8;

void CheckAxis(const Axis& axis, const std::string& prefix, const std::string& which) {
  RequireRange(prefix + "kernel " + which, axis.kernel, 1, kMaxPoolKernel);
  RequireRange(prefix + "stride " + which, axis.stride, 1, kMaxExtent);
  RequireRange(prefix + "dilation " + which, axis.dilation, 1, 1);
  RequireRange(prefix + "padding before " + which, axis.pad_begin, 0, axis.kernel - 1);
  RequireRange(prefix + "padding after " + which, axis.pad_end, 0, axis.kernel - 1);
}

struct Job {
  const MaxPoolShape& shape;
  const PoolKernels& kernels;
  int64_t planes, in_height, in_width, out_height, out_width, units;
  const float* x;
  float* y;
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
void PoolUnit(void* argument, size_t unit) {
  const Job& job = *static_cast<const Job*>(argument);
  const auto index = static_cast<int64_t>(unit);
  const int64_t begin = job.planes * index / job.units;
  const int64_t in_plane = job.in_height * job.in_width;
  const int64_t out_plane = job.out_height * job.out_width;
  PoolRows(job.shape, job.kernels,
           {job.x + begin * in_plane, in_plane, job.in_height, job.in_width,
            -job.shape.height.pad_begin, job.y + begin * out_plane, out_plane, job.out_height,
            job.out_width, job.planes * (index + 1) / job.units - begin});
}

}  // namespace

void CheckMaxPool(const MaxPoolShape& shape, const char* prefix) {
  CheckAxis(shape.height, prefix, "height");
  CheckAxis(shape.width, prefix, "width");
}

void PoolRows(const MaxPoolShape& shape, const PoolKernels& kernels, const PooledRows& rows) {
  const int64_t at_once = (kBufferColumns - shape.width.kernel) / shape.width.stride + 1;
  for (int64_t out = 0; out < rows.out_width; out += at_once) {
    PoolColumns(shape, kernels, rows, out, std::min(at_once, rows.out_width - out));
  }
}

void MaxPool(const MaxPoolShape& shape, Isa isa, int64_t planes, int64_t in_height,
             int64_t in_width, const float* x, float* y, const ParallelFor& parallel_for) {
  RequireRange("input height", in_height, 1, kMaxExtent);
  RequireRange("input width", in_width, 1, kMaxExtent);
  const bool parallel = parallel_for.run != nullptr && static_cast<double>(planes) *
                                                               static_cast<double>(in_height) *
                                                               static_cast<double>(in_width) >=
                                                           kMinParallelPixels;
  Job job = {shape,
             *KernelsFor(isa).pool,
             planes,
             in_height,
             in_width,
             OutputExtent(shape.height, in_height, "height"),
             OutputExtent(shape.width, in_width, "width"),
             parallel ? std::min(planes, kUnits) : 1,
             x,
             y};
  if (!parallel) return PoolUnit(&job, 0);
  parallel_for.run(parallel_for.context, static_cast<size_t>(job.units), PoolUnit, &job);
}

}  // namespace lcnn
