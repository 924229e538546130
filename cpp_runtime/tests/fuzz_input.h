// A layer and an input of arbitrary bytes, for fuzz_lookup_conv.cc.
#ifndef LCNN_TESTS_FUZZ_INPUT_H_
#define LCNN_TESTS_FUZZ_INPUT_H_

#include <fuzzer/FuzzedDataProvider.h>

#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/geometry.h"
#include "fixtures.h"
#include "kernels/f32_project.h"

namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxKernelPositions = 1 << 20;
// What one input may cost: 10 ms and a few MB.
constexpr int64_t kMaxConstants = 1 << 16;      // floats of D, of P, of bias
constexpr int64_t kMaxTensor = 1 << 19;         // floats of X, of Y, of scratch
constexpr int64_t kMaxPositions = 1 << 18;      // of S in a plan
constexpr int64_t kMaxMacs = 1 << 20;           // of a run; one stage needs 400000 for threads
constexpr int64_t kMaxReferenceMacs = 1 << 18;  // more: only every n-th output is compared

struct Range {
  int64_t low, high;
};

// Bounds of the extents, so that a part of the runtime is reached often.
struct Style {
  Range group, depth, filters, dictionary;  // depth, filters: of one group
  Range kernel, stride, dilation;
  Range batch, extent;
  double least_density, most_density;  // of P
};

constexpr Style kStyles[] = {
    // any
    {{1, 3}, {1, 9}, {0, 9}, {0, 20}, {1, 4}, {1, 4}, {1, 3}, {1, 3}, {0, 20}, 0, 1},
    // cut
    {{1, 1}, {1, 4}, {12, 40}, {1, 60}, {1, 3}, {1, 3}, {1, 2}, {1, 3}, {1, 12}, 0.3, 0.6},
    // parts
    {{1, 1}, {1, 2}, {25, 40}, {20, 220}, {1, 3}, {1, 2}, {1, 2}, {1, 2}, {1, 8}, 0.4, 0.6},
    // small planes
    {{1, 1}, {1, 2}, {12, 260}, {1, 9}, {1, 1}, {1, 3}, {1, 1}, {1, 40}, {1, 3}, 0.3, 0.6},
    // depth blocks
    {{1, 2}, {100, 300}, {1, 4}, {1, 20}, {1, 2}, {1, 2}, {1, 2}, {1, 2}, {1, 7}, 0.2, 1},
    // one pixel
    {{1, 3}, {1, 300}, {1, 40}, {1, 40}, {1, 1}, {1, 2}, {1, 1}, {1, 1}, {1, 1}, 0.1, 1},
    // groups of images
    {{1, 1}, {1, 2}, {1, 2}, {60, 80}, {1, 3}, {1, 2}, {1, 2}, {3, 5}, {30, 44}, 0, 1},
    // long rows
    {{1, 1}, {1, 3}, {12, 24}, {1, 4}, {1, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 200}, 0.3, 0.6},
    // threads
    {{1, 2}, {20, 90}, {1, 9}, {20, 60}, {1, 1}, {1, 2}, {1, 1}, {1, 3}, {9, 20}, 0, 1},
    // shared lists
    {{1, 2}, {1, 4}, {7, 40}, {1, 20}, {1, 3}, {1, 2}, {1, 2}, {1, 3}, {1, 20}, 0.6, 1},
};

constexpr int64_t kHostile[] = {0,
                                -1,
                                1,
                                2,
                                7,
                                64,
                                1000,
                                30000,
                                65535,
                                65536,
                                int64_t{1} << 29,
                                int64_t{1} << 30,
                                kMaxInt32,
                                kMaxInt32 + 1,
                                int64_t{1} << 32,
                                int64_t{1} << 62,
                                std::numeric_limits<int64_t>::max(),
                                std::numeric_limits<int64_t>::min()};

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kMaxFloat = std::numeric_limits<float>::max();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Two factors of 1e30 overflow, but never together with a third value that hides it.
constexpr float kSpecials[] = {kNan, kInf, -kInf, 0.0f, -0.0f, 1e30f, -1e30f, 1e-30f};

enum class ResidualKind { kNone, kConstant, kTensor, kMaxValue = kTensor };

int64_t Choose(FuzzedDataProvider* bytes, const Range& range) {
  return bytes->ConsumeIntegralInRange(range.low, range.high);
}

int64_t OrHostile(FuzzedDataProvider* bytes, int64_t value) {
  return bytes->ConsumeIntegral<uint8_t>() < 251 ? value : bytes->PickValueInArray(kHostile);
}

bool Between(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }

struct Input {
  explicit Input(FuzzedDataProvider* bytes);
  void ChooseList(const Style& style, FuzzedDataProvider* bytes);
  void ChooseDictionary(FuzzedDataProvider* bytes);
  std::string Text() const;

  lcnn::LookupConvShape shape;
  int64_t batch, height, width;
  ResidualKind residual;
  bool two_threads;
  size_t misalign;
  std::mt19937 random;
  std::vector<float> dictionary, bias;
  std::vector<uint16_t> halves;       // the dictionary as float16, or empty
  std::vector<int8_t> bytes_of_rows;  // the same as int8
  bool identity = false;
  lcnn::LookupConvConstants constants;
  bool constants_fit = true;  // false: too many to make here
  std::vector<std::pair<size_t, float>> x_specials, residual_specials;  // place modulo size, value
};

lcnn::Axis ChooseAxis(const Style& style, FuzzedDataProvider* bytes) {
  lcnn::Axis axis;
  axis.kernel = OrHostile(bytes, Choose(bytes, style.kernel));
  axis.stride = OrHostile(bytes, Choose(bytes, style.stride));
  axis.dilation = OrHostile(bytes, Choose(bytes, style.dilation));
  const int padding = bytes->ConsumeIntegralInRange(0, 3);
  if (padding == 0) return axis;
  // Output as large as the input, whatever the kernel.
  if (padding < 3 && Between(axis.kernel, 1, 65535) && Between(axis.dilation, 1, kMaxInt32)) {
    const int64_t both = axis.dilation * (axis.kernel - 1);
    axis.pad_begin = both / 2;
    axis.pad_end = both - both / 2;
    return axis;
  }
  axis.pad_begin = OrHostile(bytes, bytes->ConsumeIntegralInRange(0, 5));
  axis.pad_end = OrHostile(bytes, bytes->ConsumeIntegralInRange(0, 5));
  return axis;
}

lcnn::Axis ChoosePool(FuzzedDataProvider* bytes) {
  lcnn::Axis axis;
  const auto kernel = bytes->ConsumeIntegralInRange<int64_t>(1, 5);
  axis.kernel = OrHostile(bytes, kernel);
  axis.stride = OrHostile(bytes, bytes->ConsumeIntegralInRange(1, 4));
  axis.pad_begin = OrHostile(bytes, bytes->ConsumeIntegralInRange<int64_t>(0, kernel - 1));
  axis.pad_end = OrHostile(bytes, bytes->ConsumeIntegralInRange<int64_t>(0, kernel - 1));
  return axis;
}

float ChooseBound(FuzzedDataProvider* bytes, float usual) {
  constexpr float kBounds[] = {0, -0.3f, 0.4f, 6, kInf, -kInf, kNan};
  return bytes->ConsumeBool() ? usual : bytes->PickValueInArray(kBounds);
}

// NaN, infinity or an extreme number somewhere in a tensor.
void Poke(std::vector<float>* values, size_t place, float value) {
  if (!values->empty()) (*values)[place % values->size()] = value;
}

bool AxisRefused(const lcnn::Axis& axis) {
  return !Between(axis.kernel, 1, 65535) || !Between(axis.stride, 1, kMaxInt32) ||
         !Between(axis.dilation, 1, kMaxInt32) || !Between(axis.pad_begin, 0, kMaxInt32) ||
         !Between(axis.pad_end, 0, kMaxInt32);
}

bool PoolRefused(const lcnn::Axis& axis) {
  return !Between(axis.kernel, 1, 256) || !Between(axis.stride, 1, kMaxInt32) ||
         axis.dilation != 1 || !Between(axis.pad_begin, 0, axis.kernel - 1) ||
         !Between(axis.pad_end, 0, axis.kernel - 1);
}

// Whether the shape alone must be refused, before any constant is read.
bool ShapeRefused(const lcnn::LookupConvShape& shape) {
  if (shape.pools() && (PoolRefused(shape.pool_height) || PoolRefused(shape.pool_width))) {
    return true;
  }
  return AxisRefused(shape.height) || AxisRefused(shape.width) ||
         !Between(shape.group, 1, kMaxInt32) || !Between(shape.channels, 1, kMaxInt32) ||
         !Between(shape.out_channels, 0, kMaxInt32) ||
         !Between(shape.dictionary_size, 0, kMaxInt32) || shape.channels % shape.group != 0 ||
         shape.out_channels % shape.group != 0 || !(shape.clip_min <= shape.clip_max) ||
         (shape.hard_swish && (shape.clip_min > -kMaxFloat || shape.clip_max < kMaxFloat)) ||
         shape.height.kernel * shape.width.kernel > kMaxKernelPositions ||
         shape.group * lcnn::RoundUp(shape.dictionary_size, lcnn::kPanelRows) > kMaxInt32;
}

// P has this many places, of an accepted shape.
double Places(const lcnn::LookupConvShape& shape) {
  return static_cast<double>(shape.height.kernel * shape.width.kernel) *
         static_cast<double>(shape.dictionary_size) * static_cast<double>(shape.out_channels);
}

Input::Input(FuzzedDataProvider* bytes) {
  const Style& style = bytes->PickValueInArray(kStyles);
  random.seed(bytes->ConsumeIntegral<uint16_t>());
  const int64_t group = Choose(bytes, style.group);
  shape.group = OrHostile(bytes, group);
  shape.channels = OrHostile(bytes, group * Choose(bytes, style.depth));
  shape.out_channels = OrHostile(bytes, group * Choose(bytes, style.filters));
  shape.dictionary_size = OrHostile(bytes, Choose(bytes, style.dictionary));
  shape.height = ChooseAxis(style, bytes);
  shape.width = ChooseAxis(style, bytes);
  shape.hard_swish = bytes->ConsumeBool();
  const bool bounded = !shape.hard_swish || bytes->ConsumeIntegral<uint8_t>() > 250;  // refused
  shape.clip_min = bounded ? ChooseBound(bytes, -kMaxFloat) : -kMaxFloat;
  shape.clip_max = bounded ? ChooseBound(bytes, kMaxFloat) : kMaxFloat;
  batch = OrHostile(bytes, Choose(bytes, style.batch));
  height = OrHostile(bytes, Choose(bytes, style.extent));
  width = OrHostile(bytes, Choose(bytes, style.extent));
  residual = bytes->ConsumeEnum<ResidualKind>();
  two_threads = bytes->ConsumeBool();
  misalign = bytes->ConsumeIntegralInRange<size_t>(0, 15);
  if (!ShapeRefused(shape)) {
    const double depth = static_cast<double>(shape.channels / shape.group);
    const double rows = static_cast<double>(shape.group * shape.dictionary_size);
    constants_fit = depth * rows <= kMaxConstants && shape.out_channels <= kMaxConstants;
    if (!constants_fit) return;
    dictionary.resize(static_cast<size_t>(depth * rows));
    bias.resize(static_cast<size_t>(shape.out_channels));
  }
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (float& value : dictionary) value = uniform(random);
  for (float& value : bias) value = uniform(random);
  ChooseList(style, bytes);
  ChooseDictionary(bytes);
  for (int specials = bytes->ConsumeIntegralInRange(0, 6); specials > 4; --specials) {
    const float value = bytes->PickValueInArray(kSpecials);
    const size_t place = bytes->ConsumeIntegral<uint16_t>();
    switch (bytes->ConsumeIntegralInRange(0, 8)) {
      case 0:
        if (halves.empty()) Poke(&dictionary, place, value);
        break;
      case 1:
        Poke(&bias, place, value);
        break;
      case 2:
        Poke(&constants.coefficients, place, value);
        break;
      case 3:
        residual_specials.emplace_back(place, value);
        break;
      default:
        // The identity is not multiplied with: infinity times its zeros is not NaN.
        if (!identity || std::isfinite(value)) x_specials.emplace_back(place, value);
    }
  }
  constants.bias = bias.data();
  if (bytes->ConsumeIntegral<uint8_t>() % 4 != 1) return;
  shape.pool_height = ChoosePool(bytes);
  shape.pool_width = ChoosePool(bytes);
  if (shape.pools() && residual == ResidualKind::kTensor) residual = ResidualKind::kConstant;
}

// A right list of a random P, perhaps damaged after, or gaps as they come.
void Input::ChooseList(const Style& style, FuzzedDataProvider* bytes) {
  const uint32_t max_gap = bytes->PickValueInArray<uint32_t>({255, 65535, 3, 1});
  const double share = bytes->ConsumeIntegral<uint8_t>() / 255.0;
  const double density = style.least_density + share * (style.most_density - style.least_density);
  const int damage = bytes->ConsumeIntegralInRange(0, 31);
  std::uniform_real_distribution<float> uniform(0, 1);
  if (damage == 0 || ShapeRefused(shape) || Places(shape) > kMaxConstants) {
    while (bytes->remaining_bytes() > 32) {
      constants.gaps.push_back(bytes->ConsumeIntegral<uint8_t>());
      constants.coefficients.push_back(uniform(random) - 0.5f);
    }
    return;
  }
  std::vector<float> kernel(static_cast<size_t>(Places(shape)));
  const auto same = bytes->ConsumeIntegralInRange<size_t>(1, 8);  // filters with one pattern
  const size_t places =
      kernel.size() / static_cast<size_t>(std::max<int64_t>(1, shape.out_channels));
  std::vector<bool> pattern(places);
  for (size_t i = 0; i < kernel.size(); ++i) {
    if (i / places % same == 0) pattern[i % places] = uniform(random) < density;
    if (pattern[i % places]) kernel[i] = uniform(random) - 0.5f;
  }
  Encode(kernel, max_gap, &constants);
  if (constants.gaps.empty()) return;
  const size_t place = random() % constants.gaps.size();
  if (damage == 1) constants.gaps[place] = bytes->ConsumeIntegral<uint32_t>();
  if (damage == 2) constants.gaps.push_back(1);
  if (damage == 3) constants.coefficients.pop_back();
}

// Random float32, perhaps the identity, perhaps float16 or int8.
void Input::ChooseDictionary(FuzzedDataProvider* bytes) {
  const auto size = static_cast<size_t>(shape.dictionary_size);
  const bool square = !dictionary.empty() && shape.dictionary_size == shape.channels / shape.group;
  identity = bytes->ConsumeBool() && square;
  for (size_t i = 0; identity && i < dictionary.size(); ++i) {
    dictionary[i] = i / size % size == i % size;
  }
  constants.dictionary = dictionary.data();
  if (identity || !bytes->ConsumeBool()) return;
  for (size_t i = 0; i < dictionary.size(); ++i) {
    halves.push_back(static_cast<uint16_t>(random() & 0xbbff));  // below 1
  }
  bytes_of_rows.assign(halves.begin(), halves.end());
  constants.dictionary = nullptr;
  if (bytes->ConsumeBool()) {
    dictionary = lcnn::Widened(bytes_of_rows.data(), bytes_of_rows.size());
    constants.byte_dictionary = bytes_of_rows.data();
  } else {
    dictionary = lcnn::Widened(halves.data(), halves.size());
    constants.half_dictionary = halves.data();
  }
}

std::string Input::Text() const {
  const auto axis = [](const lcnn::Axis& a) {
    return "{" + std::to_string(a.kernel) + ", " + std::to_string(a.stride) + ", " +
           std::to_string(a.dilation) + ", " + std::to_string(a.pad_begin) + ", " +
           std::to_string(a.pad_end) + "}";
  };
  return "shape {" + std::to_string(shape.channels) + ", " + std::to_string(shape.out_channels) +
         ", " + std::to_string(shape.group) + ", " + std::to_string(shape.dictionary_size) + ", " +
         axis(shape.height) + ", " + axis(shape.width) + ", pool " + axis(shape.pool_height) +
         ", " + axis(shape.pool_width) + ", " + std::to_string(shape.clip_min) + ", " +
         std::to_string(shape.clip_max) + (shape.hard_swish ? ", hard_swish" : "") + "}, input " +
         std::to_string(batch) + "x" + std::to_string(height) + "x" + std::to_string(width) + ", " +
         std::to_string(constants.gaps.size()) + " entries, residual " +
         std::to_string(static_cast<int>(residual));
}

}  // namespace

#endif  // LCNN_TESTS_FUZZ_INPUT_H_
