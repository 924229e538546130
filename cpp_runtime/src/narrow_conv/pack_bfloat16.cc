// A layer of bfloat16, packed.
#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "base/dispatch.h"
#include "narrow_conv/checks.h"
#include "narrow_conv/packed_conv.h"

namespace lcnn {
namespace {

constexpr int64_t kBytes = 2;
constexpr float kMaxFloat = std::numeric_limits<float>::max();

void RequireFiniteHalves(const std::string& name, const uint16_t* values, int64_t count) {
  constexpr uint16_t kExponent = 0x7f80;
  const uint16_t* end = values + count;
  const uint16_t* found =
      std::find_if(values, end, [](uint16_t v) { return (v & kExponent) == kExponent; });
  if (found != end) {
    throw std::invalid_argument(name + " holds infinity or NaN at " +
                                std::to_string(found - values) +
                                "; values must be finite; the model file is damaged or was edited");
  }
}

// Sums start at the bias.
FilterValues StartAt(const float* bias, int64_t filters) {
  FilterValues values;
  values.start.resize(static_cast<size_t>(filters));
  values.scale.resize(values.start.size());
  values.bias.resize(values.start.size());
  if (bias != nullptr && filters > 0) {
    std::memcpy(values.start.data(), bias, values.start.size() * sizeof(float));
  }
  return values;
}

PackedStage PackedHalves(const uint16_t* values, int64_t filters, int64_t group, int64_t depth,
                         const Axis& height, const Axis& width, const float* bias, Isa isa) {
  return PackedStage(
      {reinterpret_cast<const int8_t*>(values), filters, group, depth * kBytes, height, width},
      StartAt(bias, filters), LastWithin(FeaturesFor(isa), Bfloat16DotRows()));
}

std::optional<PackedStage> Project(const NarrowConvShape& shape,
                                   const Bfloat16ConvConstants& constants, Isa isa) {
  if (!shape.lookup) return std::nullopt;
  const int64_t rows = shape.group * shape.dictionary_size;
  const int64_t depth = shape.channels / shape.group;
  RequireFiniteHalves("D", constants.dictionary, rows * depth);
  return PackedHalves(constants.dictionary, rows, shape.group, depth, {}, {}, nullptr, isa);
}

PackedStage Result(const NarrowConvShape& shape, const Bfloat16ConvConstants& constants, Isa isa) {
  const int64_t window = shape.height.kernel * shape.width.kernel * shape.depth();
  RequireFiniteHalves("W", constants.weights, shape.out_channels * window);
  RequireFinite("bias", constants.bias, shape.out_channels);
  return PackedHalves(constants.weights, shape.out_channels, shape.group, shape.depth(),
                      shape.height, shape.width, constants.bias, isa);
}

}  // namespace

PackedConv::PackedConv(const NarrowConvShape& shape, const Bfloat16ConvConstants& constants,
                       Isa isa)
    : shape_(CheckedShape(shape, kBytes)),
      x_zero_(0),
      response_zero_(0),
      project_(Project(shape_, constants, isa)),
      result_(Result(shape_, constants, isa)),
      limits_({shape_.clip_min, shape_.clip_max, 0, 0, 0}),
      response_limits_({-kMaxFloat, kMaxFloat, 0, 0, 0}),
      halves_(LastWithin(FeaturesFor(isa), Bfloat16MapRows())) {}

}  // namespace lcnn
