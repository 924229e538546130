// The constants of a layer, checked and in the order the kernels read them. Independent of input
// size and instruction set.
#ifndef LCNN_SRC_PACKED_WEIGHTS_H_
#define LCNN_SRC_PACKED_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "aligned_buffer.h"
#include "lcnn/lookup_conv.h"

namespace lcnn {

class PackedWeights {
 public:
  // Throws std::invalid_argument when shape or constants break a rule of the operator.
  PackedWeights(const LookupConvShape& shape, const LookupConvConstants& constants);

  const LookupConvShape& shape() const { return shape_; }
  int64_t channels_per_group() const { return shape_.channels / shape_.group; }
  int64_t panels_per_group() const { return panels_per_group_; }
  // Panel `p` of a group, as described at kPanelRows in kernels/kernels.h.
  const float* panel(int64_t group, int64_t p) const;
  const float* bias() const { return bias_.data(); }

  // Lookups with a coefficient other than 0, filter by filter: those of filter o are
  // [entry_begin[o], entry_begin[o + 1]).
  const std::vector<int32_t>& entry_begin() const { return entry_begin_; }
  const std::vector<float>& coefficients() const { return coefficients_; }
  // (r * kW + c) * k + j of each.
  const std::vector<uint32_t>& positions() const { return positions_; }

 private:
  void PackDictionary(const float* dictionary);
  void PackEntries(const LookupConvConstants& constants);

  LookupConvShape shape_;
  int64_t panels_per_group_;
  AlignedFloats panels_;
  std::vector<float> bias_;
  std::vector<int32_t> entry_begin_;
  std::vector<float> coefficients_;
  std::vector<uint32_t> positions_;
};

}  // namespace lcnn

#endif  // LCNN_SRC_PACKED_WEIGHTS_H_
