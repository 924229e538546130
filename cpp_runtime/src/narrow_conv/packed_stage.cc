#include "narrow_conv/packed_stage.h"

#include "base/dispatch.h"
#include "base/geometry.h"

namespace lcnn {

PackedStage::PackedStage(const DotWeights& weights, const FilterValues& values,
                         CpuFeatures features, bool may_list)
    : dot_kernels_(LastWithin(features, DotRows())), element_bytes_(1) {
  if (IsDepthwise(weights)) {
    depth_.emplace(weights, values, LastWithin(features, DepthRows()));
  } else {
    dots_.emplace(weights, values, dot_kernels_);
    if (!may_list) return;
    const ListKernels& kernels = LastWithin(features, ListRows());
    const std::optional<int64_t> share = ListShare(weights, kernels, dots_->cost());
    if (!share) return;
    dots_.reset();
    lists_.emplace(weights, values, kernels, *share);
  }
}

PackedStage::PackedStage(const DotWeights& weights, const FilterValues& values,
                         const DotKernels& kernels)
    : dot_kernels_(kernels), element_bytes_(2) {
  dots_.emplace(weights, values, kernels);
}

int64_t PackedStage::parts() const {
  return dots_ ? static_cast<int64_t>(dots_->parts().size())
               : CeilDiv(depth_->filters(), kPartFilters);
}

int64_t PackedStage::bytes_beyond() const {
  if (depth_) return depth_->kernels().channels - 1;
  return dots_->bytes_beyond();
}

}  // namespace lcnn
