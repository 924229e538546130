// One LookupConv node of a session.
#ifndef LCNN_SRC_ORT_LOOKUP_CONV_KERNEL_H_
#define LCNN_SRC_ORT_LOOKUP_CONV_KERNEL_H_

#include <memory>
#include <string>

#include "lcnn/lookup_conv.h"
#include "ort/ort_handles.h"
#include "ort/shape_inference.h"

namespace lcnn::ort {

// Inputs of the operator, in order.
enum Input : size_t { kX, kDictionary, kGaps, kCoefficients, kBias, kResidual, kInputCount };

class LookupConvKernel {
 public:
  static constexpr const char* kName = "LookupConv";
  static constexpr auto InferShape = InferConvShape;

  // Reads and checks attributes and constants. Throws std::exception.
  LookupConvKernel(const OrtApi* api, const OrtKernelInfo* info, std::string subject);

  // Throws std::exception. Const in every respect that callers can see: runs may overlap.
  void Compute(OrtKernelContext* context) const;

  const OrtApi* api() const { return api_; }
  const char* subject() const { return subject_.c_str(); }

 private:
  const OrtApi* api_;
  std::string subject_;
  std::unique_ptr<const LookupConv> conv_;
};

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_LOOKUP_CONV_KERNEL_H_
