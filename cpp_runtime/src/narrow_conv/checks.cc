#include "narrow_conv/checks.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "base/geometry.h"

namespace lcnn {
namespace {

[[noreturn]] void Fail(const std::string& message) { throw std::invalid_argument(message); }

}  // namespace

NarrowConvShape CheckedShape(const NarrowConvShape& shape, int64_t element_bytes) {
  CheckAxis(shape.height, "height");
  CheckAxis(shape.width, "width");
  const int64_t taps = CheckedMul(shape.height.kernel, shape.width.kernel, kMaxTaps, "kernel");
  RequireRange("group", shape.group, 1, kMaxExtent);
  RequireRange("channels", shape.channels, 1, kMaxExtent);
  RequireRange("out_channels", shape.out_channels, 0, kMaxExtent);
  RequireMultiple("channels", shape.channels, shape.group);
  RequireMultiple("out_channels", shape.out_channels, shape.group);
  if (shape.lookup) {
    RequireRange("dictionary_size", shape.dictionary_size, 1, kMaxExtent);
  }
  CheckedMul(taps, shape.depth(), kMaxExtent, "a filter");
  // Places in a window are 32 bits.
  CheckedMul(shape.height.dilation, shape.height.kernel - 1, kMaxExtent, "dilated kernel height");
  const int64_t columns = 1 + CheckedMul(shape.width.dilation, shape.width.kernel - 1, kMaxExtent,
                                         "dilated kernel width");
  const int64_t depth = CheckedMul(shape.group, shape.depth(), kMaxExtent, "a pixel");
  CheckedMul(columns, CheckedMul(depth, element_bytes, kMaxExtent, "a pixel"), kMaxExtent,
             "a row of the dilated kernel");
  if (!(shape.clip_min <= shape.clip_max)) {
    Fail("clip_min is " + std::to_string(shape.clip_min) + " and clip_max is " +
         std::to_string(shape.clip_max) + "; clip_min must not exceed clip_max");
  }
  return shape;
}

void RequireFinite(const std::string& name, const float* values, int64_t count) {
  const float* end = values + count;
  const float* found = std::find_if(values, end, [](float v) { return !std::isfinite(v); });
  if (found != end) {
    Fail(name + " holds " + std::to_string(*found) + " at " + std::to_string(found - values) +
         "; values must be finite; the model file is damaged or was edited");
  }
}

}  // namespace lcnn
