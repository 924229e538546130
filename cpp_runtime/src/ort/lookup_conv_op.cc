// ai.lcnn::LookupConv for ONNX Runtime, as defined in cpp_runtime/README.md.
#include "ort/lookup_conv_kernel.h"
#include "ort/op_table.h"

namespace lcnn::ort {
namespace {

// D, gaps and coefficients each come in two types; the kernel checks them.
int LCNN_ORT_CALL GetInputType(const OrtCustomOp*, size_t index) {
  const bool any = index == kDictionary || index == kGaps || index == kCoefficients;
  return any ? kElementUndefined : kElementFloat;
}
size_t LCNN_ORT_CALL GetInputTypeCount(const OrtCustomOp*) { return kInputCount; }
int LCNN_ORT_CALL GetInputCharacteristic(const OrtCustomOp*, size_t index) {
  return index == kResidual ? kInputOptional : kInputRequired;
}

OrtCustomOp MakeOp() {
  OrtCustomOp op = OpOf<LookupConvKernel>();
  op.GetInputType = GetInputType;
  op.GetInputTypeCount = GetInputTypeCount;
  op.GetInputCharacteristic = GetInputCharacteristic;
  return op;
}

}  // namespace

const OrtCustomOp* LookupConvOp() {
  static const OrtCustomOp op = MakeOp();
  return &op;
}

}  // namespace lcnn::ort
