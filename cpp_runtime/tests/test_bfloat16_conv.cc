// Convolutions of bfloat16 against loops in double precision, within the bound of README.md.
#include "byte_layer.h"
#include "check.h"
#include "kernels/bf16_bits.h"

namespace {

using Halves = GuardedOf<uint16_t>;

constexpr double kUnit = 0x1p-8;  // of rounding to bfloat16
constexpr double kEpsilon = 0x1p-23;

std::vector<uint16_t> RandomHalves(size_t count, double density, std::mt19937* random) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::bernoulli_distribution keep(density);
  std::vector<uint16_t> halves(count);
  for (uint16_t& half : halves) half = keep(*random) ? ToBfloat16(uniform(*random)) : 0;
  return halves;
}

struct HalfLayer {
  lcnn::NarrowConvShape shape;
  lcnn::Bfloat16ConvConstants constants;
  std::vector<uint16_t> dictionary, weights;
  std::vector<float> bias;

  HalfLayer(const ByteCase& c, bool to_narrow, std::mt19937* random)
      : shape(ByteLayer(c, to_narrow, random).shape) {
    const int64_t window = c.height.kernel * c.width.kernel * shape.depth();
    dictionary = RandomHalves(static_cast<size_t>(c.k * c.channels), 1, random);
    weights = RandomHalves(static_cast<size_t>(c.filters * window), c.density, random);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (int64_t o = 0; o < c.filters; ++o) bias.push_back(uniform(*random));
    constants = {dictionary.data(), weights.data(), bias.data()};
  }
};

// A value, and what all of its terms add up to without their signs.
struct Term {
  double value = 0;
  double magnitude = 0;
};

// Sums of products of (n, y, x) with (o, r, s) of a stage, for pixels of `channels` terms.
std::vector<Term> Stage(const PlainConv& conv, const std::vector<Term>& x,
                        const std::vector<uint16_t>& w) {
  std::vector<Term> sums;
  const int64_t depth = conv.channels / conv.group;
  const auto sum = [&](int64_t n, int64_t y, int64_t c, int64_t o) {
    Term term;
    for (int64_t r = 0; r < conv.height.kernel; ++r) {
      for (int64_t s = 0; s < conv.width.kernel; ++s) {
        const int64_t row =
            y * conv.height.stride + r * conv.height.dilation - conv.height.pad_begin;
        const int64_t column =
            c * conv.width.stride + s * conv.width.dilation - conv.width.pad_begin;
        if (row < 0 || row >= conv.in_height || column < 0 || column >= conv.in_width) continue;
        const int64_t pixel = (n * conv.in_height + row) * conv.in_width + column;
        const int64_t tap = (o * conv.height.kernel + r) * conv.width.kernel + s;
        for (int64_t i = 0; i < depth; ++i) {
          const int64_t channel = o / (conv.filters / conv.group) * depth + i;
          const Term& from = x[static_cast<size_t>(pixel * conv.channels + channel)];
          const auto weight =
              static_cast<double>(FromBfloat16(w[static_cast<size_t>(tap * depth + i)]));
          term.value += from.value * weight;
          term.magnitude += from.magnitude * std::abs(weight);
        }
      }
    }
    return term;
  };
  for (int64_t n = 0; n < conv.batch; ++n) {
    for (int64_t y = 0; y < conv.OutHeight(); ++y) {
      for (int64_t c = 0; c < conv.OutWidth(); ++c) {
        for (int64_t o = 0; o < conv.filters; ++o) sums.push_back(sum(n, y, c, o));
      }
    }
  }
  return sums;
}

std::vector<Term> Exact(const ByteCase& c, const HalfLayer& layer, const Halves& x) {
  std::vector<Term> terms;
  for (size_t i = 0; i < x.size(); ++i) {
    const auto value = static_cast<double>(FromBfloat16(x[i]));
    terms.push_back({value, std::abs(value)});
  }
  PlainConv conv = {c.batch,   c.in_height, c.in_width, c.channels,
                    c.filters, c.group,     c.height,   c.width};
  if (c.k > 0) {
    PlainConv project = conv;
    project.filters = c.group * c.k;
    project.height = project.width = {};
    if (!terms.empty()) terms = Stage(project, terms, layer.dictionary);
    conv.channels = project.filters;
  }
  return Stage(conv, terms, layer.weights);
}

void RunCase(const ByteCase& c, bool to_narrow, bool adds, lcnn::Isa isa) {
  std::mt19937 random(static_cast<uint32_t>(c.channels * 31 + c.filters));
  const HalfLayer layer(c, to_narrow, &random);
  Halves x(static_cast<size_t>(c.batch * c.channels * c.in_height * c.in_width), 3);
  const std::vector<uint16_t> values = RandomHalves(x.size(), 1, &random);
  std::copy(values.begin(), values.end(), x.data());
  const std::vector<Term> exact = Exact(c, layer, x);
  const std::vector<uint16_t> residual = RandomHalves(exact.size(), 1, &random);
  const lcnn::NarrowConv conv(layer.shape, layer.constants, isa);
  GuardedBytes scratch(conv.ScratchBytes(c.batch, c.in_height, c.in_width), 5);
  // Whatever scratch holds: here, NaN.
  std::fill(scratch.data(), scratch.data() + scratch.size(), uint8_t{0xff});
  Halves narrow(to_narrow ? exact.size() : 0, 5);
  Guarded floats(to_narrow ? 0 : exact.size(), 5);
  Threads pool(c.filters % 2 == 0 ? 3 : 1);
  conv.Run({c.batch, c.in_height, c.in_width, x.data(), adds ? residual.data() : nullptr},
           to_narrow ? static_cast<void*>(narrow.data()) : floats.data(), scratch.data(),
           pool.Loop());
  const auto filters = static_cast<size_t>(std::max<int64_t>(1, c.filters));
  const size_t plane = exact.size() / filters / static_cast<size_t>(std::max<int64_t>(1, c.batch));
  const auto products =
      static_cast<double>((c.k > 0 ? c.channels / c.group : 0) +
                          c.height.kernel * c.width.kernel * layer.shape.depth() + 2);
  size_t wrong = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const size_t o = i % filters, pixel = i / filters;
    const double added = adds ? static_cast<double>(FromBfloat16(residual[i])) : 0;
    const double bias = static_cast<double>(layer.bias[o]);
    const double magnitude = exact[i].magnitude + std::abs(bias) + std::abs(added);
    const double want =
        std::clamp(exact[i].value + bias + added, static_cast<double>(layer.shape.clip_min),
                   static_cast<double>(layer.shape.clip_max));
    double bound = magnitude * (2 * products * kEpsilon + (c.k > 0 ? kUnit : 0));
    if (to_narrow) bound += (std::abs(want) + bound) * kUnit;
    const float got = to_narrow ? FromBfloat16(narrow[i])
                                : floats[(pixel / plane * filters + o) * plane + pixel % plane];
    wrong += !(std::abs(static_cast<double>(got) - want) <= bound);
  }
  CHECK_TEXT(wrong == 0 && narrow.WallsIntact() && floats.WallsIntact() && scratch.WallsIntact(),
             std::to_string(wrong) + " wrong of " + std::to_string(exact.size()) + ", " + c.name +
                 ", " + lcnn::IsaName(isa) + (adds ? ", residual" : ""));
}

// Convolutions of bytes that give bfloat16: what they would give as floats, rounded.
void RunBytes(const ByteCase& c, lcnn::Isa isa) {
  std::mt19937 random(static_cast<uint32_t>(c.channels * 31 + c.filters));
  ByteLayer layer(c, false, &random);
  layer.shape.to_bfloat16 = true;
  const lcnn::NarrowConv conv(layer.shape, layer.constants, isa);
  GuardedBytes x(static_cast<size_t>(c.batch * c.channels * c.in_height * c.in_width), 7);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(random() & 255);
  const lcnn::NarrowConvInput input = {c.batch, c.in_height, c.in_width, x.data(), nullptr};
  const std::vector<float> floats = PlainResult(layer, input).floats;
  Halves y(floats.size(), 5);
  GuardedBytes scratch(conv.ScratchBytes(c.batch, c.in_height, c.in_width), 5);
  Threads pool(c.filters % 2 == 0 ? 3 : 1);
  conv.Run(input, y.data(), scratch.data(), pool.Loop());
  const auto filters = static_cast<size_t>(std::max<int64_t>(1, c.filters));
  const size_t plane = y.size() / filters / static_cast<size_t>(std::max<int64_t>(1, c.batch));
  size_t wrong = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t o = i % filters, pixel = i / filters;
    const float v = floats[(pixel / plane * filters + o) * plane + pixel % plane];
    wrong += y[i] != ToBfloat16(v);
  }
  CHECK_TEXT(wrong == 0 && y.WallsIntact() && scratch.WallsIntact(),
             std::to_string(wrong) + " wrong of " + std::to_string(y.size()) + ", bytes to " +
                 "bfloat16, " + c.name + ", " + lcnn::IsaName(isa));
}

// Rounding to nearest, ties to even, and NaN: a convolution with a weight of 1 rounds its bias.
void TestRounding(lcnn::Isa isa) {
  const float values[] = {1 + 0x1p-8f,  1 + 0x3p-8f,     1 + 0x1.8p-8f,
                          -1 - 0x1p-8f, 0x1.fffffep127f, 0};
  constexpr auto kCount = static_cast<int64_t>(std::size(values));
  lcnn::NarrowConvShape shape;
  shape.channels = 1;
  shape.out_channels = kCount;
  shape.clip_min = -INFINITY;
  shape.clip_max = INFINITY;
  shape.to_narrow = true;
  const std::vector<uint16_t> weights(kCount, ToBfloat16(1));
  const lcnn::NarrowConv conv(shape, lcnn::Bfloat16ConvConstants{nullptr, weights.data(), values},
                              isa);
  std::vector<uint8_t> scratch(conv.ScratchBytes(1, 1, 1));
  uint16_t y[kCount];
  const uint16_t zero = 0, nan = 0x7fc0;
  conv.Run({1, 1, 1, &zero, nullptr}, y, scratch.data(), {});
  const uint16_t want[] = {0x3f80, 0x3f82, 0x3f81, 0xbf80, 0x7f80, 0};
  for (int64_t i = 0; i < kCount; ++i) CHECK(y[i] == want[i]);
  conv.Run({1, 1, 1, &nan, nullptr}, y, scratch.data(), {});
  for (int64_t i = 0; i < kCount; ++i) CHECK(std::isnan(FromBfloat16(y[i])));
}

template <class Change>
void CheckRefused(const Change& change, const char* fragment) {
  std::mt19937 random(5);
  HalfLayer layer({"", 1, 8, 6, 2, 3, 5, 5}, true, &random);
  change(&layer);
  const auto make = [&] { lcnn::NarrowConv(layer.shape, layer.constants, lcnn::Isa::kScalar); };
  CHECK_THROWS(make(), fragment);
}

void TestRefused() {
  CheckRefused([](auto* l) { l->shape.width.kernel = 0; }, "kernel width is 0, outside [1, 65535]");
  CheckRefused([](auto* l) { l->dictionary[3] = 0x7f80; },
               "D holds infinity or NaN at 3; values must");
  CheckRefused([](auto* l) { l->weights[5] = 0xffc0; },
               "W holds infinity or NaN at 5; values must");
  CheckRefused([](auto* l) { l->bias[1] = NAN; }, "bias holds nan at 1; values must be finite");
}

}  // namespace

int main() {
  for (const lcnn::Isa isa : IsasToTest()) {
    for (const ByteCase& c : NarrowCases()) {
      RunCase(c, false, false, isa);
      RunCase(c, true, false, isa);
      RunCase(c, true, true, isa);
      RunBytes(c, isa);
    }
    TestRounding(isa);
  }
  TestRefused();
  return TestResult();
}
