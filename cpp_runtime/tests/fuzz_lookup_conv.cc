// libFuzzer target: creates a layer from arbitrary bytes, plans it for an arbitrary input size and
// runs it on every instruction set, against loops in double precision.
//
// The bytes choose a style of layer, then every extent and attribute, one in 50 of them hostile; a
// seed among them gives the values. What must be refused is stated here once more, from README.md,
// so that refusing too much or too little fails. A failure prints the layer and aborts.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/geometry.h"
#include "fixtures.h"
#include "kernels/kernels.h"
#include "lookup_conv/packed_weights.h"
#include "reference.h"

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

[[noreturn]] void Fail(const Input& input, const std::string& what) {
  std::fprintf(stderr, "%s\n%s\n", what.c_str(), input.Text().c_str());
  std::abort();
}

bool AllFinite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

// Whether the constants of an accepted shape must be refused.
bool ConstantsRefused(const Input& input) {
  const lcnn::LookupConvConstants& constants = input.constants;
  const double filter =
      Places(input.shape) / static_cast<double>(std::max<int64_t>(1, input.shape.out_channels));
  if (filter > 0xffffffffLL) return true;
  if (!AllFinite(input.dictionary) || !AllFinite(input.bias) ||
      !AllFinite(constants.coefficients) || constants.gaps.size() != constants.coefficients.size())
    return true;
  double position = 0;
  for (size_t e = 0; e < constants.gaps.size(); ++e) {
    position += constants.gaps[e];
    if ((e > 0 && constants.gaps[e] == 0) || position >= Places(input.shape)) return true;
  }
  return false;
}

std::vector<float> DenseKernel(const Input& input) {
  std::vector<float> kernel(static_cast<size_t>(Places(input.shape)));
  size_t position = 0;
  for (size_t e = 0; e < input.constants.gaps.size(); ++e) {
    position += input.constants.gaps[e];
    kernel[position] = input.constants.coefficients[e];
  }
  return kernel;
}

// What a plan for the input has to hold, as far as it decides whether it can be made.
enum class PlanSize { kRefused, kCostly, kSmall };

PlanSize SizeOfPlan(const Input& input) {
  const lcnn::LookupConvShape& shape = input.shape;
  const auto too_small = [](const lcnn::Axis& axis, int64_t extent) {
    return extent + axis.pad_begin + axis.pad_end < axis.dilation * (axis.kernel - 1) + 1;
  };
  if (!Between(input.batch, 1, kMaxInt32) || !Between(input.height, 0, kMaxInt32) ||
      !Between(input.width, 0, kMaxInt32) || too_small(shape.height, input.height) ||
      too_small(shape.width, input.width)) {
    return PlanSize::kRefused;
  }
  const lcnn::AxisLayout rows = lcnn::LayOutAxis(shape.height, input.height, "height");
  const lcnn::AxisLayout columns = lcnn::LayOutAxis(shape.width, input.width, "width");
  if (shape.pools() &&
      (too_small(shape.pool_height, rows.output) || too_small(shape.pool_width, columns.output))) {
    return PlanSize::kRefused;
  }
  const auto product = [](int64_t a, int64_t b) {
    return static_cast<double>(a) * static_cast<double>(b);
  };
  const double x_image = product(input.height, input.width) * static_cast<double>(shape.channels);
  const double y_image =
      product(rows.output, columns.output) * static_cast<double>(shape.out_channels);
  const double phases = product(static_cast<int64_t>(rows.phases.size()),
                                static_cast<int64_t>(columns.phases.size()));
  const double plane = product(rows.pitch, columns.pitch);
  const double shift =
      product(rows.max_shift, columns.pitch) + static_cast<double>(columns.max_shift);
  const double runs = static_cast<double>(shape.group * shape.dictionary_size) * phases;
  if (std::max({x_image, y_image, std::max(1.0, runs) * (plane + shift)}) > kMaxInt32) {
    return PlanSize::kRefused;
  }
  // As many images as make 1 MiB of S.
  const double images = std::min(static_cast<double>(input.batch),
                                 std::max(1.0, 262144 / std::max(1.0, runs * plane)));
  // The pitch of cut lists is rounded up to a vector, runs to an odd number of cache lines.
  const double longest = lcnn::kMaxLanes * (images * plane + shift);
  const bool small = phases * longest <= 16.0 * kMaxPositions && runs * (longest + 128) < 1 << 28;
  return small ? PlanSize::kSmall : PlanSize::kCostly;
}

// Runs units last to first, in two threads every second one.
void RunBackwards(void* context, size_t count, void (*task)(void*, size_t), void* argument) {
  const size_t threads = *static_cast<const bool*>(context) ? 2 : 1;
  const auto work = [&](size_t thread) {
    for (size_t i = thread; i < count; i += threads) task(argument, count - 1 - i);
  };
  std::thread other;
  if (threads == 2) other = std::thread(work, size_t{1});
  work(0);
  if (threads == 2) other.join();
}

void FillWith(Guarded* buffer, const std::vector<std::pair<size_t, float>>& specials,
              std::mt19937* random) {
  Fill(buffer, random);
  if (buffer->size() == 0) return;
  for (const auto& [place, value] : specials) (*buffer)[place % buffer->size()] = value;
}

struct Expected {
  size_t index;  // in Y
  double value, bound;
  bool may_be_nan;  // an entry of another filter in the list met infinity
};

// The kernel with a 1 wherever the list of a filter has an entry that the filter has not.
std::vector<float> ListedKernel(const Input& input, std::vector<float> kernel) {
  const auto filters =
      static_cast<size_t>(lcnn::PackedWeights(input.shape, input.constants).list_filters());
  const auto all = static_cast<size_t>(input.shape.out_channels);
  const size_t places = kernel.size() / all;
  for (size_t i = 0; filters > 1 && i < all * places; ++i) {
    const size_t first = i / places / filters * filters, last = std::min(all, first + filters);
    bool listed = false;
    for (size_t o = first; o < last; ++o) listed = listed || kernel[o * places + i % places] != 0;
    if (listed && kernel[i] == 0) kernel[i] = 1;
  }
  return kernel;
}

// One output of the convolution; nothing where it may overflow.
class Outputs {
 public:
  Outputs(const Input& input, const Guarded& x, const Guarded& residual, int64_t height,
          int64_t width)
      : input_(input),
        x_(x),
        residual_(residual),
        height_(height),
        width_(width),
        kernel_(DenseKernel(input)),
        listed_(ListedKernel(input, kernel_)),
        shared_(listed_ != kernel_) {}

  std::optional<Expected> At(size_t index) const {
    const lcnn::LookupConvShape& shape = input_.shape;
    const ReferenceValue want = ReferenceOf(kernel_, index);
    const bool may_be_nan = shared_ && !(ReferenceOf(listed_, index).magnitude <= 1e30);
    const double added = input_.residual == ResidualKind::kNone       ? 0
                         : input_.residual == ResidualKind::kConstant ? residual_[0]
                                                                      : residual_[index];
    const double value = Activated(shape, want.value + added);
    const double magnitude = want.magnitude + std::fabs(added);
    if (std::isfinite(magnitude) && magnitude > 1e30) return {};
    const double terms =
        static_cast<double>(shape.channels / shape.group) +
        static_cast<double>(kernel_.size()) / static_cast<double>(shape.out_channels) + 2;
    // Products below the smallest normal float lose their relative precision.
    const double bound =
        (shape.hard_swish ? 4 : 2) * terms *
        (std::numeric_limits<float>::epsilon() * magnitude + std::numeric_limits<float>::min());
    return Expected{index, value, bound, may_be_nan};
  }

  // The largest of a window; nothing where a value is unknown or NaN, which may win or lose.
  std::optional<Expected> PooledAt(size_t index, int64_t out_height, int64_t out_width) const {
    const lcnn::Axis& rows = input_.shape.pool_height;
    const lcnn::Axis& columns = input_.shape.pool_width;
    const auto pixel = static_cast<int64_t>(index) % (out_height * out_width);
    const int64_t plane = static_cast<int64_t>(index) / (out_height * out_width);
    const int64_t top = pixel / out_width * rows.stride - rows.pad_begin;
    const int64_t left = pixel % out_width * columns.stride - columns.pad_begin;
    Expected largest = {index, -std::numeric_limits<double>::infinity(), 0, false};
    for (int64_t y = std::max<int64_t>(0, top); y < std::min(height_, top + rows.kernel); ++y) {
      for (int64_t x = std::max<int64_t>(0, left); x < std::min(width_, left + columns.kernel);
           ++x) {
        const auto one = At(static_cast<size_t>((plane * height_ + y) * width_ + x));
        if (!one || one->may_be_nan || std::isnan(one->value)) return {};
        largest.value = std::max(largest.value, one->value);
        largest.bound = std::max(largest.bound, one->bound);
      }
    }
    return largest;
  }

  size_t kernel_size() const { return kernel_.size(); }

 private:
  ReferenceValue ReferenceOf(const std::vector<float>& entries, size_t index) const {
    const auto pixel = static_cast<int64_t>(index) % (height_ * width_);
    const int64_t plane = static_cast<int64_t>(index) / (height_ * width_);
    return Reference(input_.shape, input_.dictionary.data(), entries, input_.bias.data(), x_.data(),
                     input_.height, input_.width, plane / input_.shape.out_channels,
                     plane % input_.shape.out_channels, pixel / width_, pixel % width_);
  }

  const Input& input_;
  const Guarded& x_;
  const Guarded& residual_;
  const int64_t height_, width_;
  const std::vector<float> kernel_, listed_;
  const bool shared_;
};

// The outputs that are compared: all, or as many as kMaxReferenceMacs pay for.
std::vector<Expected> Compute(const Input& input, const Guarded& x, const Guarded& residual,
                              size_t outputs, int64_t out_height, int64_t out_width) {
  const lcnn::LookupConvShape& shape = input.shape;
  const int64_t height = lcnn::OutputExtent(shape.height, input.height, "height");
  const int64_t width = lcnn::OutputExtent(shape.width, input.width, "width");
  const Outputs reference(input, x, residual, height, width);
  const auto filters = static_cast<size_t>(shape.out_channels);
  const auto depth = static_cast<size_t>(shape.channels / shape.group);
  const int64_t window = shape.pools() ? std::min(height, shape.pool_height.kernel) *
                                             std::min(width, shape.pool_width.kernel)
                                       : 1;
  const size_t macs = outputs * static_cast<size_t>(window) *
                      (reference.kernel_size() + input.constants.gaps.size() * depth) / filters;
  const size_t step = 1 + macs / kMaxReferenceMacs;
  std::vector<Expected> expected;
  for (size_t i = step / 2; i < outputs; i += step) {
    const auto one = shape.pools() ? reference.PooledAt(i, out_height, out_width) : reference.At(i);
    if (one) expected.push_back(*one);
  }
  return expected;
}

bool Near(float y, const Expected& expected) {
  if (expected.may_be_nan && std::isnan(y)) return true;
  if (std::isnan(expected.value)) return std::isnan(y);
  const double value = y;
  return value == expected.value || std::fabs(value - expected.value) <= expected.bound;
}

// Runs twice, in the calling thread and in others, on whatever scratch holds.
Guarded RunLayer(const Input& input, const lcnn::LookupConv& conv, const lcnn::Plan& plan,
                 const Guarded& x, const Guarded& residual, size_t outputs) {
  Guarded y(outputs, input.misalign + 1), again(outputs, 0);
  Guarded scratch(lcnn::ScratchBytes(plan) / sizeof(float), input.misalign);
  lcnn::Residual argument;
  if (input.residual == ResidualKind::kTensor) argument.tensor = residual.data();
  if (input.residual == ResidualKind::kConstant) argument.constant = residual[0];
  bool two_threads = input.two_threads;
  conv.Run(plan, x.data(), argument, y.data(), scratch.data(), {});
  conv.Run(plan, x.data(), argument, again.data(), scratch.data(), {RunBackwards, &two_threads});
  if (!y.WallsIntact() || !again.WallsIntact() || !scratch.WallsIntact()) {
    Fail(input, "wrote outside a buffer");
  }
  for (size_t i = 0; i < outputs; ++i) {
    if (y[i] != again[i] && !(std::isnan(y[i]) && std::isnan(again[i]))) {
      Fail(input, "output " + std::to_string(i) + " depends on threads or scratch");
    }
  }
  return y;
}

void CheckRuns(Input* input, const std::vector<std::unique_ptr<lcnn::LookupConv>>& layers) {
  const lcnn::LookupConvShape& shape = input->shape;
  int64_t out_height = lcnn::OutputExtent(shape.height, input->height, "height");
  int64_t out_width = lcnn::OutputExtent(shape.width, input->width, "width");
  const bool large = static_cast<double>(out_height) * static_cast<double>(out_width) > kMaxTensor;
  if (shape.pools()) {
    out_height = lcnn::OutputExtent(shape.pool_height, out_height, "height");
    out_width = lcnn::OutputExtent(shape.pool_width, out_width, "width");
  }
  const double images = static_cast<double>(input->batch);
  const double x_floats =
      images * static_cast<double>(shape.channels * input->height * input->width);
  const double y_floats = images * static_cast<double>(shape.out_channels * out_height * out_width);
  if (large || x_floats > kMaxTensor || y_floats > kMaxTensor || Places(shape) > kMaxConstants)
    return;

  const auto outputs = static_cast<size_t>(y_floats);
  Guarded x(static_cast<size_t>(x_floats), input->misalign);
  Guarded residual(input->residual == ResidualKind::kTensor ? outputs : 1, input->misalign + 3);
  FillWith(&x, input->x_specials, &input->random);
  FillWith(&residual, input->residual_specials, &input->random);
  const std::vector<Expected> expected =
      Compute(*input, x, residual, outputs, out_height, out_width);
  for (const auto& conv : layers) {
    const auto plan = conv->PlanFor(input->batch, input->height, input->width);
    if (lcnn::ScratchBytes(*plan) > kMaxTensor * sizeof(float) ||
        lcnn::ProjectMacs(*plan) + lcnn::LookupMacs(*plan) > kMaxMacs) {
      return;
    }
    const Guarded y = RunLayer(*input, *conv, *plan, x, residual, outputs);
    for (const Expected& e : expected) {
      if (Near(y[e.index], e)) continue;
      Fail(*input, "output " + std::to_string(e.index) + " is " + std::to_string(y[e.index]) +
                       ", not " + std::to_string(e.value) + " +- " + std::to_string(e.bound));
    }
  }
}

// Passes when body() throws std::invalid_argument exactly if `refused`; returns whether it did not.
template <class Body>
bool Accepted(const Input& input, bool refused, const char* what, const Body& body) {
  std::string message;
  try {
    body();
    if (refused) Fail(input, std::string(what) + " was not refused");
    return true;
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  if (!refused) Fail(input, std::string(what) + " was refused: " + message);
  return false;
}

void CheckInput(Input* input) {
  if (!input->constants_fit) return;
  const bool refused = ShapeRefused(input->shape) || ConstantsRefused(*input);
  static const std::vector<lcnn::Isa> isas = IsasToTest();
  std::vector<std::unique_ptr<lcnn::LookupConv>> layers;
  for (const lcnn::Isa isa : isas) {
    const bool accepted = Accepted(*input, refused, "the layer", [&] {
      layers.push_back(std::make_unique<lcnn::LookupConv>(input->shape, input->constants, isa));
    });
    if (!accepted) return;
  }
  if (input->shape.out_channels == 0) return;  // the adapter asks for no plan of nothing
  const PlanSize size = SizeOfPlan(*input);
  if (size == PlanSize::kCostly) return;
  for (const auto& layer : layers) {
    const bool accepted = Accepted(*input, size == PlanSize::kRefused, "the input size", [&] {
      layer->PlanFor(input->batch, input->height, input->width);
    });
    if (!accepted) return;
  }
  CheckRuns(input, layers);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider bytes(data, size);
  Input input(&bytes);
  CheckInput(&input);
  return 0;
}
