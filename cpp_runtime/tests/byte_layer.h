// Random layers of bytes, and the operators' definition in loops.
#ifndef LCNN_TESTS_BYTE_LAYER_H_
#define LCNN_TESTS_BYTE_LAYER_H_

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "fixtures.h"
#include "lcnn/narrow_conv.h"

// GCC 12 vectorises sums of products of signed bytes wrongly.
#if defined(__clang__)
#define LCNN_PLAIN_LOOPS
#else
#define LCNN_PLAIN_LOOPS __attribute__((optimize("no-tree-vectorize"), noinline))
#endif

struct ByteCase {
  const char* name;
  int64_t batch, channels, filters, group;
  int64_t k;  // 0: no lookup
  int64_t in_height, in_width;
  lcnn::Axis height = {3, 1, 1, 1, 1};
  lcnn::Axis width = {3, 1, 1, 1, 1};
  double density = 1;  // of weights
};

// The layers that most tests go through.
inline std::vector<ByteCase> NarrowCases() {
  constexpr lcnn::Axis kOne = {1, 1, 1, 0, 0}, kThree = {3, 1, 1, 1, 1};
  return {
      {"3x3", 1, 16, 64, 1, 0, 9, 11},
      {"3x3 lookup", 1, 64, 64, 1, 16, 9, 11},
      {"batch", 3, 8, 20, 1, 4, 5, 7},
      {"no images", 0, 8, 20, 1, 4, 5, 7},
      {"no filters", 2, 8, 0, 1, 4, 5, 7},
      {"odd channels and filters", 2, 7, 13, 1, 0, 6, 5},
      {"odd lookup", 2, 7, 13, 1, 3, 6, 5},
      {"one channel", 1, 1, 5, 1, 1, 6, 5},
      {"stem", 1, 3, 64, 1, 0, 23, 20, {7, 2, 1, 3, 3}, {7, 2, 1, 3, 3}},
      {"strides, uneven padding", 2, 12, 70, 1, 8, 11, 9, {3, 2, 1, 0, 2}, {2, 3, 1, 1, 0}},
      {"dilation", 1, 5, 17, 1, 0, 12, 13, {3, 1, 2, 2, 2}, {3, 1, 3, 3, 1}},
      {"dilated lookup", 1, 5, 17, 1, 6, 12, 13, {3, 1, 2, 2, 2}, {3, 2, 3, 3, 1}},
      {"groups", 2, 12, 30, 3, 0, 6, 6},
      {"groups of odd numbers", 1, 15, 35, 5, 2, 6, 7},
      {"depthwise", 2, 19, 19, 19, 0, 7, 8},
      {"depthwise, more filters", 1, 6, 12, 6, 1, 7, 8, {3, 2, 1, 1, 1}, {3, 2, 1, 1, 1}},
      {"depthwise, 64 and some", 2, 133, 133, 133, 0, 6, 9, {3, 2, 1, 1, 1}, {3, 1, 1, 1, 1}},
      {"depthwise lookup", 1, 64, 64, 64, 1, 6, 9, {3, 1, 1, 1, 1}, {5, 1, 2, 4, 4}},
      {"depthwise 1x1", 1, 96, 96, 96, 0, 3, 3, kOne, kOne},
      {"1x1", 2, 24, 40, 1, 0, 5, 5, kOne, kOne},
      {"1x1 odd", 2, 23, 40, 1, 0, 5, 5, kOne, kOne},
      {"1x1 lookup, stride", 2, 24, 40, 1, 8, 7, 8, {1, 2, 1, 0, 0}, {1, 3, 1, 0, 0}},
      {"1x1 stride", 2, 24, 40, 1, 0, 7, 8, {1, 2, 1, 0, 0}, {1, 2, 1, 0, 0}},
      {"1x1 padded", 1, 8, 5, 1, 4, 3, 3, {1, 1, 1, 1, 2}, {1, 2, 1, 1, 0}},
      {"kernel wider than the plane", 1, 4, 9, 1, 0, 2, 1, {5, 1, 1, 2, 3}, {7, 1, 1, 4, 3}},
      {"wide and low", 1, 4, 9, 1, 2, 1, 200, {1, 1, 1, 0, 0}, {9, 1, 1, 4, 4}},
      {"tokens", 9, 33, 65, 1, 0, 1, 1, kOne, kOne},
      {"empty plane, padded", 1, 4, 6, 1, 2, 0, 0, {2, 1, 1, 1, 1}, {2, 1, 1, 1, 1}},
      {"several groups of images", 5, 64, 16, 1, 64, 56, 56},
      {"many filters", 1, 32, 512, 1, 0, 7, 7},
      {"sparse", 1, 64, 70, 1, 16, 9, 9, {3, 1, 1, 1, 1}, {3, 1, 1, 1, 1}, 0.02},
      {"lists", 2, 64, 68, 1, 16, 9, 10, {3, 1, 1, 1, 1}, {3, 1, 1, 1, 1}, 0.1},
      {"lists, odd dictionary", 1, 9, 12, 1, 7, 40, 11, {3, 1, 2, 2, 1}, {5, 1, 1, 4, 1}, 0.2},
      {"lists, one row", 1, 12, 64, 1, 9, 1, 300, {1, 1, 1, 0, 0}, {3, 1, 1, 0, 2}, 0.2},
      {"lists, many images", 40, 12, 72, 1, 64, 14, 14, {3, 1, 1, 1, 1}, {3, 1, 1, 1, 1}, 0.05},
      {"lists, hardly any weights", 1, 64, 64, 1, 64, 6, 7, kThree, kThree, 0.005},
      {"narrow plane", 2, 32, 80, 1, 12, 7, 7},
      {"narrow plane, strides", 2, 24, 33, 1, 0, 13, 11, {3, 2, 1, 1, 1}, {3, 2, 1, 1, 1}},
      {"one column", 2, 20, 30, 1, 0, 21, 1},
      {"17 columns", 1, 68, 50, 1, 0, 5, 17},
      {"wide", 1, 8, 20, 1, 4, 3, 301},
      {"channels of no whole tile", 2, 160, 96, 1, 76, 5, 8},
      {"chunks without weights", 1, 64, 70, 1, 64, 6, 6, kThree, kThree, 0.0005},
      {"no weights", 1, 8, 20, 1, 4, 5, 7, {3, 1, 1, 1, 1}, {3, 1, 1, 1, 1}, 0},
  };
}

struct ByteLayer {
  lcnn::NarrowConvShape shape;
  lcnn::ByteConvConstants constants;
  std::vector<int8_t> dictionary, weights;
  std::vector<float> dictionary_scale, weight_scale, bias;

  ByteLayer(const ByteCase& c, bool to_narrow, std::mt19937* random) {
    shape.channels = c.channels;
    shape.out_channels = c.filters;
    shape.group = c.group;
    shape.lookup = c.k > 0;
    shape.dictionary_size = c.k;
    shape.height = c.height;
    shape.width = c.width;
    shape.clip_min = -3;
    shape.clip_max = 4;
    shape.to_narrow = to_narrow;
    const int64_t depth = c.channels / c.group;
    const int64_t products = c.height.kernel * c.width.kernel * shape.depth();
    if (shape.lookup) {
      dictionary = Bytes(c.group * c.k * depth, 1, random);
      dictionary_scale =
          Scales(c.group * c.k, 0.03 / std::sqrt(static_cast<double>(depth)), random);
    }
    weights = Bytes(c.filters * products, c.density, random);
    weight_scale = Scales(c.filters, 4e-4 / std::sqrt(static_cast<double>(products)), random);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (int64_t o = 0; o < c.filters; ++o) bias.push_back(uniform(*random));
    constants.x = {0.7f, 119};
    constants.y = {0.02f, 131};
    constants.residual = {0.011f, 97};
    Point();
  }

  void Point() {
    constants.dictionary = dictionary.data();
    constants.dictionary_scale = dictionary_scale.data();
    constants.weights = weights.data();
    constants.weight_scale = weight_scale.data();
    constants.bias = bias.data();
  }

 private:
  // Ones of four bytes each are zero together, as in lists.
  static std::vector<int8_t> Bytes(int64_t count, double density, std::mt19937* random) {
    std::uniform_int_distribution<int> byte(-128, 127);
    std::bernoulli_distribution keep(density);
    std::vector<int8_t> bytes(static_cast<size_t>(count));
    bool kept = true;
    for (size_t i = 0; i < bytes.size(); ++i) {
      if (i % 4 == 0) kept = keep(*random);
      const int value = byte(*random);
      if (kept) bytes[i] = static_cast<int8_t>(value);
    }
    return bytes;
  }
  static std::vector<float> Scales(int64_t count, double middle, std::mt19937* random) {
    std::uniform_real_distribution<double> uniform(0.5, 1.5);
    std::vector<float> scales(static_cast<size_t>(count));
    for (float& scale : scales) scale = static_cast<float>(middle * uniform(*random));
    return scales;
  }
};

// Integers of one stage: sums[(n, y, x, o)], x - zero outside the plane is 0.
struct PlainConv {
  int64_t batch, in_height, in_width, channels, filters, group;
  lcnn::Axis height, width;

  int64_t OutHeight() const { return lcnn::OutputExtent(height, in_height, "height"); }
  int64_t OutWidth() const { return lcnn::OutputExtent(width, in_width, "width"); }

  LCNN_PLAIN_LOOPS std::vector<int32_t> Sums(const uint8_t* x, int32_t zero,
                                             const int8_t* w) const {
    std::vector<int32_t> sums;
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t y = 0; y < OutHeight(); ++y) {
        for (int64_t c = 0; c < OutWidth(); ++c) {
          for (int64_t o = 0; o < filters; ++o) sums.push_back(Sum(x, zero, w, n, y, c, o));
        }
      }
    }
    return sums;
  }

  LCNN_PLAIN_LOOPS int32_t Sum(const uint8_t* x, int32_t zero, const int8_t* w, int64_t n,
                               int64_t y, int64_t c, int64_t o) const {
    const int64_t depth = channels / group, first = o / (filters / group) * depth;
    int32_t sum = 0;
    for (int64_t r = 0; r < height.kernel; ++r) {
      for (int64_t s = 0; s < width.kernel; ++s) {
        const int64_t row = y * height.stride + r * height.dilation - height.pad_begin;
        const int64_t column = c * width.stride + s * width.dilation - width.pad_begin;
        if (row < 0 || row >= in_height || column < 0 || column >= in_width) continue;
        const uint8_t* const pixel =
            x + ((n * in_height + row) * in_width + column) * channels + first;
        const int8_t* const tap = w + ((o * height.kernel + r) * width.kernel + s) * depth;
        for (int64_t i = 0; i < depth; ++i) sum += (pixel[i] - zero) * tap[i];
      }
    }
    return sum;
  }
};

// Rounds to the nearest byte, of ties the even one.
inline uint8_t ToByte(float v, int zero) {
  const double value = std::nearbyint(static_cast<double>(v)) + zero;
  return static_cast<uint8_t>(std::clamp(value, 0.0, 255.0));
}

// What a layer makes of an input.
struct ByteResult {
  std::vector<uint8_t> bytes;  // NHWC
  std::vector<float> floats;   // NCHW
};

inline ByteResult PlainResult(const ByteLayer& layer, const lcnn::NarrowConvInput& input) {
  const lcnn::NarrowConvShape& s = layer.shape;
  const lcnn::ByteConvConstants& c = layer.constants;
  PlainConv conv = {input.batch,    input.height, input.width, s.channels,
                    s.out_channels, s.group,      s.height,    s.width};
  const auto* const x = static_cast<const uint8_t*>(input.x);
  const auto* const residual = static_cast<const uint8_t*>(input.residual);
  const uint8_t* read = x;
  int32_t zero = c.x.zero_point;
  std::vector<uint8_t> responses;
  if (s.lookup) {
    PlainConv project = conv;
    project.filters = s.group * s.dictionary_size;
    project.height = project.width = {};
    std::vector<int32_t> sums;
    if (input.height > 0 && input.width > 0) sums = project.Sums(x, zero, c.dictionary);
    for (size_t i = 0; i < sums.size(); ++i) {
      const float scale = c.x.scale * c.dictionary_scale[i % static_cast<size_t>(project.filters)];
      responses.push_back(ToByte(static_cast<float>(sums[i]) * scale, 128));
    }
    conv.channels = project.filters;
    read = responses.data();
    zero = 128;
  }
  const std::vector<int32_t> sums = conv.Sums(read, zero, c.weights);
  const double unit = s.to_narrow ? static_cast<double>(c.y.scale) : 1.0;
  const double x_scale = s.lookup ? 1.0 : static_cast<double>(c.x.scale);
  const auto filters = static_cast<size_t>(s.out_channels);
  const auto plane = static_cast<size_t>(conv.OutHeight() * conv.OutWidth());
  ByteResult result;
  result.floats.resize(sums.size());
  for (size_t i = 0; i < sums.size(); ++i) {
    const size_t o = i % filters, pixel = i / filters;
    const auto a = static_cast<float>(x_scale * static_cast<double>(c.weight_scale[o]) / unit);
    const auto b = static_cast<float>(static_cast<double>(c.bias[o]) / unit);
    float v = std::fma(static_cast<float>(sums[i]), a, b);
    if (residual != nullptr) {
      const auto scale = static_cast<float>(static_cast<double>(c.residual.scale) / unit);
      v = std::fma(static_cast<float>(residual[i] - c.residual.zero_point), scale, v);
    }
    // Bounds beyond the largest float are infinite.
    constexpr auto kMost = static_cast<double>(std::numeric_limits<float>::max());
    const auto bound = [&](float clip) {
      const double value = static_cast<double>(clip) / unit;
      return std::abs(value) > kMost ? std::copysign(INFINITY, clip) : static_cast<float>(value);
    };
    v = std::min(std::max(v, bound(s.clip_min)), bound(s.clip_max));
    result.floats[(pixel / plane * filters + o) * plane + pixel % plane] = v;
    if (s.to_narrow) result.bytes.push_back(ToByte(v, c.y.zero_point));
  }
  return result;
}

#endif  // LCNN_TESTS_BYTE_LAYER_H_
