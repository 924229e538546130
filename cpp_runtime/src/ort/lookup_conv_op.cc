// ai.lcnn::LookupConv for ONNX Runtime, as defined in cpp_runtime/README.md.
#include "lookup_conv_kernel.h"
#include "node.h"
#include "op_table.h"
#include "shape_inference.h"

namespace lcnn::ort {
namespace {

const char* LCNN_ORT_CALL GetName(const OrtCustomOp*) { return "LookupConv"; }

// D, gaps and coefficients each come in two types; the kernel checks them.
int LCNN_ORT_CALL GetInputType(const OrtCustomOp*, size_t index) {
  const bool any = index == kDictionary || index == kGaps || index == kCoefficients;
  return any ? kElementUndefined : kElementFloat;
}
size_t LCNN_ORT_CALL GetInputTypeCount(const OrtCustomOp*) { return kInputCount; }
int LCNN_ORT_CALL GetInputCharacteristic(const OrtCustomOp*, size_t index) {
  return index == kResidual ? kInputOptional : kInputRequired;
}

OrtStatus* LCNN_ORT_CALL CreateKernel(const OrtCustomOp*, const OrtApi* api,
                                      const OrtKernelInfo* info, void** kernel) {
  std::string subject;
  *kernel = nullptr;
  OrtStatus* const unnamed =
      Guard(api, "LookupConv", [&] { subject = NodeSubject(api, info, "LookupConv"); });
  if (unnamed != nullptr) return unnamed;
  return Guard(api, subject.c_str(), [&] { *kernel = new LookupConvKernel(api, info, subject); });
}

OrtStatus* LCNN_ORT_CALL Compute(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const LookupConvKernel*>(kernel);
  return Guard(self.api(), self.subject(), [&] { self.Compute(context); });
}

void LCNN_ORT_CALL Destroy(void* kernel) { delete static_cast<LookupConvKernel*>(kernel); }

OrtStatus* LCNN_ORT_CALL InferShape(const OrtCustomOp*, OrtShapeInferContext* context) {
  return Guard(Api(), "LookupConv", [&] { InferConvShape(Api(), context); });
}

OrtCustomOp MakeOp() {
  OrtCustomOp op = CommonOp();
  op.GetName = GetName;
  op.GetInputType = GetInputType;
  op.GetInputTypeCount = GetInputTypeCount;
  op.GetInputCharacteristic = GetInputCharacteristic;
  op.KernelDestroy = Destroy;
  op.CreateKernelV2 = CreateKernel;
  op.KernelComputeV2 = Compute;
  op.InferOutputShapeFn = InferShape;
  return op;
}

}  // namespace

const OrtCustomOp* LookupConvOp() {
  static const OrtCustomOp op = MakeOp();
  return &op;
}

}  // namespace lcnn::ort
