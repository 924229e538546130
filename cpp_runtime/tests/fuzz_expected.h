// What a run of an Input should give, for fuzz_lookup_conv.cc.
#ifndef LCNN_TESTS_FUZZ_EXPECTED_H_
#define LCNN_TESTS_FUZZ_EXPECTED_H_

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "fuzz_input.h"
#include "lookup_conv/packed_weights.h"
#include "reference.h"

namespace {

std::vector<float> DenseKernel(const Input& input) {
  std::vector<float> kernel(static_cast<size_t>(Places(input.shape)));
  size_t position = 0;
  for (size_t e = 0; e < input.constants.gaps.size(); ++e) {
    position += input.constants.gaps[e];
    kernel[position] = input.constants.coefficients[e];
  }
  return kernel;
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

}  // namespace

#endif  // LCNN_TESTS_FUZZ_EXPECTED_H_
