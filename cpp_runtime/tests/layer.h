// A random layer of a case, and what its outputs should be.
#ifndef LCNN_TESTS_LAYER_H_
#define LCNN_TESTS_LAYER_H_

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cases.h"
#include "check.h"
#include "fixtures.h"
#include "reference.h"

enum class ResidualKind { kNone, kConstant, kTensor };

struct Layer {
  lcnn::LookupConvShape shape;
  std::vector<float> kernel;  // dense P
  Guarded dictionary, bias;
  std::vector<uint16_t> halves;
  std::vector<int8_t> bytes;
  lcnn::LookupConvConstants constants;

  Layer(const Case& c, std::mt19937* random, Stored stored = Stored::kFloat)
      : shape(ShapeOf(c)),
        kernel(static_cast<size_t>(c.filters * c.rows.kernel * c.columns.kernel * c.dictionary)),
        dictionary(static_cast<size_t>(c.group * c.dictionary * (c.channels / c.group))),
        bias(static_cast<size_t>(c.filters)) {
    std::uniform_real_distribution<double> uniform(0, 1);
    const size_t places = kernel.size() / std::max<size_t>(1, bias.size());
    std::vector<bool> pattern(places);
    for (size_t i = 0; i < kernel.size(); ++i) {
      const bool starts = i / places % static_cast<size_t>(c.share) == 0;
      if (starts) pattern[i % places] = uniform(*random) < c.density;
      const bool filled = i / places >= static_cast<size_t>(c.first_filled);
      if (filled && pattern[i % places]) kernel[i] = static_cast<float>(uniform(*random)) - 0.6f;
    }
    Fill(&dictionary, random);
    if (c.identity) MakeIdentity(static_cast<size_t>(c.dictionary));
    Fill(&bias, random);
    Encode(kernel, 255, &constants);
    constants.dictionary = dictionary.data();
    constants.bias = bias.data();
    if (stored == Stored::kHalf && !c.identity) MakeHalf(random);
    if (stored == Stored::kByte && !c.identity) MakeBytes(random);
  }

  void MakeIdentity(size_t size) {
    for (size_t i = 0; i < dictionary.size(); ++i) dictionary[i] = i / size % size == i % size;
  }

  void MakeHalf(std::mt19937* random) {
    // Numbers from 2^-8 to 2, and subnormal ones.
    std::uniform_int_distribution<uint32_t> exponent(6, 15), rest(0, 0x3ff), sign(0, 1);
    for (size_t i = 0; i < dictionary.size(); ++i) {
      const uint32_t bits = sign(*random) << 15 | exponent(*random) << 10 | rest(*random);
      halves.push_back(static_cast<uint16_t>(i % 7 == 3 ? bits & 0x83ff : bits));
    }
    const std::vector<float> widened = lcnn::Widened(halves.data(), halves.size());
    std::copy(widened.begin(), widened.end(), dictionary.data());
    constants.dictionary = nullptr;
    constants.half_dictionary = halves.data();
  }

  void MakeBytes(std::mt19937* random) {
    std::uniform_int_distribution<int> number(-128, 127);
    for (size_t i = 0; i < dictionary.size(); ++i) {
      bytes.push_back(static_cast<int8_t>(number(*random)));
      dictionary[i] = bytes.back();
    }
    constants.dictionary = nullptr;
    constants.byte_dictionary = bytes.data();
  }
};

// What an output should be and how far off it may be.
struct Expected {
  double value;
  double bound;
};

// |y - reference| <= 2 * terms * eps * sum |term|: each of the sums of `terms` numbers rounds at
// most once per addition and multiplication, in any order. For the activation see Activated.
inline std::vector<Expected> ExpectedPlane(const Case& c, const Layer& layer, const Guarded& x,
                                           int64_t n, int64_t o, const float* residual, bool tensor,
                                           int64_t height, int64_t width) {
  const double terms = static_cast<double>(c.channels / c.group +
                                           c.dictionary * c.rows.kernel * c.columns.kernel + 2);
  std::vector<Expected> plane;
  for (int64_t pixel = 0; pixel < height * width; ++pixel) {
    const ReferenceValue want =
        Reference(layer.shape, layer.dictionary.data(), layer.kernel, layer.bias.data(), x.data(),
                  c.height, c.width, n, o, pixel / width, pixel % width);
    const double added = residual == nullptr ? 0 : residual[tensor ? pixel : 0];
    plane.push_back(
        {Activated(layer.shape, want.value + added), (layer.shape.hard_swish ? 4 : 2) * terms *
                                                         std::numeric_limits<float>::epsilon() *
                                                         (want.magnitude + std::fabs(added))});
  }
  return plane;
}

// The largest of a window is off by no more than the worst of its values.
inline std::vector<Expected> Pooled(const Case& c, const std::vector<Expected>& plane,
                                    int64_t height, int64_t width) {
  std::vector<Expected> pooled;
  const int64_t out_height = lcnn::OutputExtent(c.pool_rows, height, "height");
  const int64_t out_width = lcnn::OutputExtent(c.pool_columns, width, "width");
  for (int64_t i = 0; i < out_height * out_width; ++i) {
    Expected largest = {-std::numeric_limits<double>::infinity(), 0};
    const int64_t top = i / out_width * c.pool_rows.stride - c.pool_rows.pad_begin;
    const int64_t left = i % out_width * c.pool_columns.stride - c.pool_columns.pad_begin;
    for (int64_t y = std::max<int64_t>(0, top); y < std::min(height, top + c.pool_rows.kernel);
         ++y) {
      for (int64_t x = std::max<int64_t>(0, left);
           x < std::min(width, left + c.pool_columns.kernel); ++x) {
        const Expected& value = plane[static_cast<size_t>(y * width + x)];
        largest.value = std::max(largest.value, value.value);
        largest.bound = std::max(largest.bound, value.bound);
      }
    }
    pooled.push_back(largest);
  }
  return pooled;
}

inline void CompareAll(const Case& c, const Layer& layer, const Guarded& x, const Guarded& residual,
                       ResidualKind kind, const Guarded& y, const std::string& text) {
  const int64_t height = lcnn::OutputExtent(c.rows, c.height, "height");
  const int64_t width = lcnn::OutputExtent(c.columns, c.width, "width");
  const bool tensor = kind == ResidualKind::kTensor;
  size_t index = 0;
  double worst = 0;
  for (int64_t n = 0; n < c.batch; ++n) {
    for (int64_t o = 0; o < c.filters; ++o) {
      const float* const added =
          kind == ResidualKind::kNone
              ? nullptr
              : residual.data() + (tensor ? (n * c.filters + o) * height * width : 0);
      std::vector<Expected> expected =
          ExpectedPlane(c, layer, x, n, o, added, tensor, height, width);
      if (layer.shape.pools()) expected = Pooled(c, expected, height, width);
      for (const Expected& want : expected) {
        const double error = std::fabs(y[index++] - want.value);
        if (!(error <= want.bound)) {
          worst = std::max(worst, std::isnan(error) ? 1e30 : error / want.bound);
        }
      }
    }
  }
  CHECK_TEXT(worst == 0 && index == y.size(),
             text + ": error is " + std::to_string(worst) + " times the bound");
}

#endif  // LCNN_TESTS_LAYER_H_
