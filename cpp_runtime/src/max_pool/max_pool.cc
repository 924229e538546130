#include "lcnn/max_pool.h"

#include <string>

#include "base/dispatch.h"
#include "base/geometry.h"
#include "max_pool/pool_rows.h"

namespace lcnn {
namespace {

void CheckAxis(const Axis& axis, const std::string& prefix, const std::string& which) {
  RequireRange(prefix + "kernel " + which, axis.kernel, 1, kMaxPoolKernel);
  RequireRange(prefix + "stride " + which, axis.stride, 1, kMaxExtent);
  RequireRange(prefix + "dilation " + which, axis.dilation, 1, 1);
  RequireRange(prefix + "padding before " + which, axis.pad_begin, 0, axis.kernel - 1);
  RequireRange(prefix + "padding after " + which, axis.pad_end, 0, axis.kernel - 1);
}

}  // namespace

void CheckMaxPool(const MaxPoolShape& shape, const char* prefix) {
  CheckAxis(shape.height, prefix, "height");
  CheckAxis(shape.width, prefix, "width");
}

void MaxPool(const MaxPoolShape& shape, Isa isa, int64_t planes, int64_t in_height,
             int64_t in_width, const float* x, float* y, const ParallelFor& parallel_for) {
  RequireRange("input height", in_height, 1, kMaxExtent);
  RequireRange("input width", in_width, 1, kMaxExtent);
  PoolPlanes(shape, LastWithin(FeaturesFor(isa), PoolRows()), {planes, in_height, in_width, x, y},
             parallel_for);
}

}  // namespace lcnn
