#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "base/dispatch.h"
#include "base/geometry.h"
#include "narrow_conv/checks.h"
#include "narrow_conv/packed_conv.h"

namespace lcnn {
namespace {

// The zero point of responses.
constexpr uint8_t kResponseZero = 128;
// A product is at most 255 * 128, and a sum of so many fits 32 bits.
constexpr int64_t kMaxProducts = std::numeric_limits<int32_t>::max() / (255 * 128);

[[noreturn]] void Fail(const std::string& message) { throw std::invalid_argument(message); }

void RequireProducts(const std::string& name, int64_t products) {
  if (products > kMaxProducts) {
    Fail(name + " has " + std::to_string(products) +
         " products in a sum, which may exceed 32 bits; it must have at most " +
         std::to_string(kMaxProducts));
  }
}

NarrowConvShape Checked(const NarrowConvShape& shape) {
  NarrowConvShape checked = CheckedShape(shape, 1);
  if (shape.lookup) RequireProducts("D", shape.channels / shape.group);
  RequireProducts("W", shape.height.kernel * shape.width.kernel * shape.depth());
  return checked;
}

void RequireScale(const std::string& name, const float* values, int64_t count) {
  RequireFinite(name, values, count);
  const float* end = values + count;
  const float* found = std::find_if(values, end, [](float v) { return !(v > 0); });
  if (found != end) {
    Fail(name + " holds " + std::to_string(*found) + " at " + std::to_string(found - values) +
         "; scales must be positive; the model file is damaged or was edited");
  }
}

// Rounded once; what scales of any size make of a constant may be out of range.
float Folded(const std::string& name, double value, int64_t index) {
  if (std::abs(value) > static_cast<double>(std::numeric_limits<float>::max())) {
    Fail(name + " at " + std::to_string(index) + " is " + std::to_string(value) +
         " in units of Y, more than the largest float; the scales do not fit together");
  }
  return static_cast<float>(value);
}

// Sums start at what makes up for the zero point of what is multiplied.
std::vector<int32_t> Starts(const int8_t* weights, int64_t filters, int64_t products,
                            int32_t zero) {
  std::vector<int32_t> starts(static_cast<size_t>(filters));
  for (int32_t& start : starts) {
    for (int64_t i = 0; i < products; ++i) start -= zero * weights[i];
    weights += products;
  }
  return starts;
}

PackedStage PackedProject(const NarrowConvShape& shape, const ByteConvConstants& constants,
                          CpuFeatures features) {
  const int64_t rows = shape.group * shape.dictionary_size;
  const int64_t depth = shape.channels / shape.group;
  RequireScale("d_scale", constants.dictionary_scale, rows);
  FilterValues values;
  values.start = Starts(constants.dictionary, rows, depth, constants.x.zero_point);
  values.bias.resize(static_cast<size_t>(rows));
  for (int64_t j = 0; j < rows; ++j) {
    values.scale.push_back(Folded(
        "d_scale", static_cast<double>(constants.x.scale) * constants.dictionary_scale[j], j));
  }
  return PackedStage({constants.dictionary, rows, shape.group, depth, {}, {}}, values, features,
                     false);
}

// For bytes, values are in units of Y.
double Unit(const NarrowConvShape& shape, const ByteConvConstants& constants) {
  return shape.to_narrow ? static_cast<double>(constants.y.scale) : 1.0;
}

PackedStage PackedResult(const NarrowConvShape& shape, const ByteConvConstants& constants,
                         CpuFeatures features) {
  const int64_t products = shape.height.kernel * shape.width.kernel * shape.depth();
  RequireScale("w_scale", constants.weight_scale, shape.out_channels);
  RequireFinite("bias", constants.bias, shape.out_channels);
  const double x_scale = shape.lookup ? 1.0 : static_cast<double>(constants.x.scale);
  const double unit = Unit(shape, constants);
  FilterValues values;
  values.start = Starts(constants.weights, shape.out_channels, products,
                        shape.lookup ? kResponseZero : constants.x.zero_point);
  for (int64_t o = 0; o < shape.out_channels; ++o) {
    const double scale = x_scale * static_cast<double>(constants.weight_scale[o]);
    values.scale.push_back(Folded("w_scale", scale / unit, o));
    values.bias.push_back(Folded("bias", static_cast<double>(constants.bias[o]) / unit, o));
  }
  return PackedStage({constants.weights, shape.out_channels, shape.group, shape.depth(),
                      shape.height, shape.width},
                     values, features, shape.lookup && !shape.to_bfloat16);
}

ResultLimits LimitsOf(const NarrowConvShape& shape, const ByteConvConstants& constants) {
  if (!shape.to_narrow) return {shape.clip_min, shape.clip_max, 0, 0, 0};
  RequireScale("y_scale", &constants.y.scale, 1);
  RequireScale("r_scale", &constants.residual.scale, 1);
  // The bounds of the byte as well, so that no value is too large to be rounded to an integer.
  const double unit = Unit(shape, constants);
  const double low = -static_cast<double>(constants.y.zero_point), high = low + 255;
  const auto bound = [&](float clip) {
    return static_cast<float>(std::clamp(static_cast<double>(clip) / unit, low, high));
  };
  return {bound(shape.clip_min), bound(shape.clip_max), constants.y.zero_point,
          Folded("r_scale", static_cast<double>(constants.residual.scale) / unit, 0),
          constants.residual.zero_point};
}

std::optional<PackedStage> MaybeProject(const NarrowConvShape& shape,
                                        const ByteConvConstants& constants, CpuFeatures features) {
  RequireScale("x_scale", &constants.x.scale, 1);
  if (!shape.lookup) return std::nullopt;
  return PackedProject(shape, constants, features);
}

}  // namespace

PackedConv::PackedConv(const NarrowConvShape& shape, const ByteConvConstants& constants, Isa isa)
    : shape_(Checked(shape)),
      x_zero_(constants.x.zero_point),
      response_zero_(kResponseZero),
      project_(MaybeProject(shape_, constants, FeaturesFor(isa))),
      result_(PackedResult(shape_, constants, FeaturesFor(isa))),
      limits_(LimitsOf(shape_, constants)),
      response_limits_({-128, 127, kResponseZero, 0, 0}),
      halves_(LastWithin(FeaturesFor(isa), Bfloat16MapRows())) {}

}  // namespace lcnn
