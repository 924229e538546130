#include "lookup_conv_op.h"

#include <atomic>

#include "lookup_conv_kernel.h"
#include "shape_inference.h"

namespace lcnn::ort {
namespace {

std::atomic<const OrtApi*> g_api{nullptr};

const char* LCNN_ORT_CALL GetName(const OrtCustomOp*) { return "LookupConv"; }
const char* LCNN_ORT_CALL GetProvider(const OrtCustomOp*) { return "CPUExecutionProvider"; }

// D, gaps and coefficients each come in two types; the kernel checks them.
int LCNN_ORT_CALL GetInputType(const OrtCustomOp*, size_t index) {
  const bool any = index == kDictionary || index == kGaps || index == kCoefficients;
  return any ? kElementUndefined : kElementFloat;
}
size_t LCNN_ORT_CALL GetInputTypeCount(const OrtCustomOp*) { return kInputCount; }
int LCNN_ORT_CALL GetOutputType(const OrtCustomOp*, size_t) { return kElementFloat; }
size_t LCNN_ORT_CALL GetOutputTypeCount(const OrtCustomOp*) { return 1; }
int LCNN_ORT_CALL GetInputCharacteristic(const OrtCustomOp*, size_t index) {
  return index == kResidual ? kInputOptional : kInputRequired;
}
int LCNN_ORT_CALL GetOutputCharacteristic(const OrtCustomOp*, size_t) { return kInputRequired; }
int LCNN_ORT_CALL GetInputMemoryType(const OrtCustomOp*, size_t) { return kMemoryDefault; }
int LCNN_ORT_CALL GetVariadicMinArity(const OrtCustomOp*) { return 1; }
int LCNN_ORT_CALL GetVariadicHomogeneity(const OrtCustomOp*) { return 1; }
int LCNN_ORT_CALL GetStartVersion(const OrtCustomOp*) { return 1; }
// Without an upper bound the loader would take this operator for later versions of the domain,
// whatever they mean.
int LCNN_ORT_CALL GetEndVersion(const OrtCustomOp*) { return 1; }

OrtStatus* LCNN_ORT_CALL CreateKernel(const OrtCustomOp*, const OrtApi* api,
                                      const OrtKernelInfo* info, void** kernel) {
  std::string subject;
  *kernel = nullptr;
  OrtStatus* const unnamed = Guard(api, "LookupConv", [&] { subject = NodeSubject(api, info); });
  if (unnamed != nullptr) return unnamed;
  return Guard(api, subject.c_str(), [&] { *kernel = new LookupConvKernel(api, info, subject); });
}

OrtStatus* LCNN_ORT_CALL Compute(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const LookupConvKernel*>(kernel);
  return Guard(self.api(), self.subject(), [&] { self.Compute(context); });
}

void LCNN_ORT_CALL Destroy(void* kernel) { delete static_cast<LookupConvKernel*>(kernel); }

OrtStatus* LCNN_ORT_CALL InferShape(const OrtCustomOp*, OrtShapeInferContext* context) {
  const OrtApi* const api = g_api.load();
  return Guard(api, "LookupConv", [&] { InferOutputShape(api, context); });
}

OrtCustomOp MakeOp() {
  OrtCustomOp op = {};
  op.version = kOrtApiVersion;
  op.GetName = GetName;
  op.GetExecutionProviderType = GetProvider;
  op.GetInputType = GetInputType;
  op.GetInputTypeCount = GetInputTypeCount;
  op.GetOutputType = GetOutputType;
  op.GetOutputTypeCount = GetOutputTypeCount;
  op.KernelDestroy = Destroy;
  op.GetInputCharacteristic = GetInputCharacteristic;
  op.GetOutputCharacteristic = GetOutputCharacteristic;
  op.GetInputMemoryType = GetInputMemoryType;
  op.GetVariadicInputMinArity = GetVariadicMinArity;
  op.GetVariadicInputHomogeneity = GetVariadicHomogeneity;
  op.GetVariadicOutputMinArity = GetVariadicMinArity;
  op.GetVariadicOutputHomogeneity = GetVariadicHomogeneity;
  op.CreateKernelV2 = CreateKernel;
  op.KernelComputeV2 = Compute;
  op.InferOutputShapeFn = InferShape;
  op.GetStartVersion = GetStartVersion;
  op.GetEndVersion = GetEndVersion;
  return op;
}

}  // namespace

const OrtCustomOp* LookupConvOp() {
  static const OrtCustomOp op = MakeOp();
  return &op;
}

void SetApi(const OrtApi* api) { g_api.store(api); }

}  // namespace lcnn::ort
