#include "narrow_conv/packed_depth.h"

#include "base/geometry.h"

namespace lcnn {
namespace {

size_t Lanes(const DotWeights& w, const DepthKernels& kernels) {
  return static_cast<size_t>(RoundUp(w.filters, kernels.channels));
}

// What is missing to a multiple of four reads the first tap, with weights of 0.
std::vector<DepthTap> TapsOf(const DotWeights& w) {
  std::vector<DepthTap> taps;
  for (int64_t r = 0; r < w.height.kernel; ++r) {
    for (int64_t c = 0; c < w.width.kernel; ++c) {
      taps.push_back({static_cast<int32_t>(r * w.height.dilation),
                      static_cast<int32_t>(c * w.width.dilation * w.group)});
    }
  }
  taps.resize(static_cast<size_t>(RoundUp(static_cast<int64_t>(taps.size()), kTapGroup)));
  return taps;
}

}  // namespace

PackedDepth::PackedDepth(const DotWeights& weights, const FilterValues& values,
                         const DepthKernels& kernels)
    : kernels_(kernels),
      filters_(weights.filters),
      taps_(TapsOf(weights)),
      weights_(Lanes(weights, kernels) * taps_.size()),
      start_(Lanes(weights, kernels)),
      scale_(start_.size()),
      bias_(start_.size()) {
  const int64_t taps = weights.height.kernel * weights.width.kernel;
  const auto n_taps = static_cast<int64_t>(taps_.size());
  for (int64_t i = 0; i < static_cast<int64_t>(start_.size()); ++i) {
    const int64_t block = i / kernels.channels * kernels.channels;
    const int64_t filter = block + DepthChannel(kernels.channels, i - block);
    if (filter >= filters_) continue;
    const auto f = static_cast<size_t>(filter);
    start_.data()[i] = values.start[f];
    scale_.data()[i] = values.scale[f];
    bias_.data()[i] = values.bias[f];
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t group = t / kTapGroup * kernels.channels * kTapGroup;
      weights_.data()[block * n_taps + group + (i - block) * kTapGroup + t % kTapGroup] =
          weights.values[filter * taps + t];
    }
  }
}

DepthTask PackedDepth::Task(int64_t first, int64_t filters) const {
  DepthTask task = {};
  task.taps = taps_.data();
  task.n_taps = static_cast<int64_t>(taps_.size());
  task.weights = weights_.data() + first * task.n_taps;
  task.filters = filters;
  task.start = start_.data() + first;
  task.scale = scale_.data() + first;
  task.bias = bias_.data() + first;
  return task;
}

}  // namespace lcnn
