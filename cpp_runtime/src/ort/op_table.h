// What the operators of this library have in common in ONNX Runtime's table of callbacks.
#ifndef LCNN_SRC_ORT_OP_TABLE_H_
#define LCNN_SRC_ORT_OP_TABLE_H_

#include <string>
#include <vector>

#include "ort/node.h"
#include "ort/ort_abi.h"
#include "ort/ort_handles.h"

namespace lcnn::ort {

constexpr const char* kDomain = "ai.lcnn";

// An operator of version 1 on the CPU with one output, of float32 unless it says otherwise; what is
// null is the operator's own.
OrtCustomOp CommonOp();

// The operators; one table each for the life of the library, shared by all sessions.
const OrtCustomOp* LookupConvOp();
const OrtCustomOp* MaxPoolOp();
std::vector<const OrtCustomOp*> NarrowConvOps();
std::vector<const OrtCustomOp*> NarrowOps();

// For callbacks that are not handed the API.
void SetApi(const OrtApi* api);
const OrtApi* Api();

// The table of the operator that Kernel computes; its inputs are still to be set. Kernel has kName,
// InferShape(api, context), a constructor from (api, info, subject), Compute(context), api() and
// subject(). All but the last two may throw std::exception, and runs may overlap.
template <class Kernel>
OrtCustomOp OpOf() {
  OrtCustomOp op = CommonOp();
  op.GetName = [](const OrtCustomOp*) { return Kernel::kName; };
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) {
    std::string subject;
    *kernel = nullptr;
    OrtStatus* const unnamed =
        Guard(api, Kernel::kName, [&] { subject = NodeSubject(api, info, Kernel::kName); });
    if (unnamed != nullptr) return unnamed;
    return Guard(api, subject.c_str(), [&] { *kernel = new Kernel(api, info, subject); });
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const auto& self = *static_cast<const Kernel*>(kernel);
    return Guard(self.api(), self.subject(), [&] { self.Compute(context); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext* context) {
    return Guard(Api(), Kernel::kName, [&] { Kernel::InferShape(Api(), context); });
  };
  return op;
}

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_OP_TABLE_H_
