// A layer's constants, checked and in kernel order.
#ifndef LCNN_SRC_NARROW_CONV_PACKED_CONV_H_
#define LCNN_SRC_NARROW_CONV_PACKED_CONV_H_

#include <optional>

#include "kernels/bf16_map.h"
#include "lcnn/narrow_conv.h"
#include "narrow_conv/packed_stage.h"

namespace lcnn {

// What results of all filters have in common.
struct ResultLimits {
  float low = 0;
  float high = 0;
  int32_t zero = 0;
  float residual_scale = 0;
  int32_t residual_zero = 0;
};

class PackedConv {
 public:
  PackedConv(const NarrowConvShape& shape, const ByteConvConstants& constants, Isa isa);
  PackedConv(const NarrowConvShape& shape, const Bfloat16ConvConstants& constants, Isa isa);

  const NarrowConvShape& shape() const { return shape_; }
  const PackedStage* project() const { return project_ ? &*project_ : nullptr; }  // null: no lookup
  const PackedStage& result() const { return result_; }
  const ResultLimits& limits() const { return limits_; }
  const ResultLimits& response_limits() const { return response_limits_; }
  // The byte of which zeros of X and of the responses consist.
  uint8_t x_zero() const { return x_zero_; }
  uint8_t response_zero() const { return response_zero_; }
  int64_t element_bytes() const { return result_.element_bytes(); }
  // Of results, where they are no floats.
  int64_t result_bytes() const { return shape_.to_bfloat16 ? 2 : element_bytes(); }
  const Bfloat16MapKernels& halves() const { return halves_; }

 private:
  NarrowConvShape shape_;
  uint8_t x_zero_;
  uint8_t response_zero_;
  std::optional<PackedStage> project_;
  PackedStage result_;
  ResultLimits limits_;
  ResultLimits response_limits_;
  const Bfloat16MapKernels& halves_;
};

}  // namespace lcnn

#endif  // LCNN_SRC_NARROW_CONV_PACKED_CONV_H_
