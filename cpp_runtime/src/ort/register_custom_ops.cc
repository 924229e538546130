// The library's exported functions.
#include <exception>

#include "lcnn/types.h"
#include "ort/op_table.h"
#include "ort/ort_handles.h"

namespace lcnn::ort {
namespace {

// Sessions refer to the domain after their options are gone, so it lives as long as the library.
// Adding it to the options of any number of sessions is allowed.
OrtCustomOpDomain* Domain(const OrtApi* api) {
  static OrtCustomOpDomain* const domain = [api] {
    Owned<OrtCustomOpDomain, ReleaseCustomOpDomain> owned(api);
    Call<CreateCustomOpDomain>(api, kDomain, owned.out());
    const auto add = [&](const OrtCustomOp* op) { Call<CustomOpDomainAdd>(api, owned.get(), op); };
    add(LookupConvOp());
    add(MaxPoolOp());
    for (const OrtCustomOp* op : NarrowConvOps()) add(op);
    for (const OrtCustomOp* op : NarrowOps()) add(op);
    OrtCustomOpDomain* const result = owned.get();
    *owned.out() = nullptr;
    return result;
  }();
  return domain;
}

}  // namespace
}  // namespace lcnn::ort

extern "C" {

LCNN_EXPORT OrtStatus* LCNN_ORT_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                       const OrtApiBase* base) {
  using namespace lcnn::ort;  // NOLINT: names of the C interface, in one function
  const OrtApi* const api = base->GetApi(kOrtApiVersion);
  if (api == nullptr) {
    // Every version of the table begins with CreateStatus, and version 1 is never refused.
    const OrtApi* const oldest = base->GetApi(1);
    const std::string message =
        std::string("LookupConv needs ONNX Runtime 1.18 or newer, this is ") +
        base->GetVersionString();
    return CreateStatus::Of(oldest)(kErrorFail, message.c_str());
  }
  return Guard(api, "LookupConv", [&] {
    SetApi(api);
    Call<AddCustomOpDomain>(api, options, Domain(api));
  });
}

// The instruction set a session created now would use, or "invalid" when LCNN_ISA is not one of
// them.
LCNN_EXPORT const char* lcnn_isa(void) {
  try {
    return lcnn::IsaName(lcnn::ChooseIsa());
  } catch (const std::exception&) {
    return "invalid";
  }
}

LCNN_EXPORT const char* lcnn_runtime_version(void) { return LCNN_VERSION; }

}  // extern "C"
