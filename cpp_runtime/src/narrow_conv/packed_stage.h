// The weights of one convolution, packed for the kernels that suit it.
#ifndef LCNN_SRC_NARROW_CONV_PACKED_STAGE_H_
#define LCNN_SRC_NARROW_CONV_PACKED_STAGE_H_

#include <optional>

#include "base/cpu_features.h"
#include "narrow_conv/packed_depth.h"
#include "narrow_conv/packed_dots.h"
#include "narrow_conv/packed_lists.h"

namespace lcnn {

// Filters that are computed together at most; parts of all kinds but the last begin at multiples of
// this in a depthwise stage.
constexpr int64_t kPartFilters = kMaxBlocks * kBlockFilters;

class PackedStage {
 public:
  // As lists only if `may_list`, and where that is faster.
  PackedStage(const DotWeights& weights, const FilterValues& values, CpuFeatures features,
              bool may_list);

  // Of numbers of two bytes, which the kernels know; `weights` counts bytes.
  PackedStage(const DotWeights& weights, const FilterValues& values, const DotKernels& kernels);

  // One of the three is there.
  const PackedDots* dots() const { return dots_ ? &*dots_ : nullptr; }
  const PackedDepth* depth() const { return depth_ ? &*depth_ : nullptr; }
  const PackedLists* lists() const { return lists_ ? &*lists_ : nullptr; }
  const DotKernels& dot_kernels() const { return dot_kernels_; }

  int64_t element_bytes() const { return element_bytes_; }
  // Of the first two.
  int64_t parts() const;
  int64_t macs() const { return dots_ ? dots_->macs() : depth_->macs(); }
  // Bytes behind the last one of X that are read and not used, by the first two.
  int64_t bytes_beyond() const;

 private:
  const DotKernels& dot_kernels_;
  int64_t element_bytes_;
  std::optional<PackedDots> dots_;
  std::optional<PackedDepth> depth_;
  std::optional<PackedLists> lists_;
};

}  // namespace lcnn

#endif  // LCNN_SRC_NARROW_CONV_PACKED_STAGE_H_
