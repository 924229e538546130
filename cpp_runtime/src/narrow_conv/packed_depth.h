// The weights of a depthwise convolution, in the order of a row of kernels.
#ifndef LCNN_SRC_NARROW_CONV_PACKED_DEPTH_H_
#define LCNN_SRC_NARROW_CONV_PACKED_DEPTH_H_

#include <vector>

#include "kernels/u8_depth.h"
#include "narrow_conv/packed_dots.h"

namespace lcnn {

// As many filters as channels, of one channel each.
inline bool IsDepthwise(const DotWeights& weights) {
  return weights.depth == 1 && weights.filters == weights.group && weights.filters > 0;
}

class PackedDepth {
 public:
  PackedDepth(const DotWeights& weights, const FilterValues& values, const DepthKernels& kernels);

  // What does not depend on the input; the other members are null or 0.
  // For `filters` channels from `first` on, a multiple of what kernels work on.
  DepthTask Task(int64_t first, int64_t filters) const;
  int64_t filters() const { return filters_; }
  const DepthKernels& kernels() const { return kernels_; }
  int64_t macs() const { return static_cast<int64_t>(weights_.size()); }

 private:
  const DepthKernels& kernels_;
  int64_t filters_;
  std::vector<DepthTap> taps_;
  AlignedBuffer<int8_t> weights_;
  AlignedBuffer<int32_t> start_;
  AlignedBuffer<float> scale_;
  AlignedBuffer<float> bias_;
};

}  // namespace lcnn

#endif  // LCNN_SRC_NARROW_CONV_PACKED_DEPTH_H_
