// ai.lcnn::LookupConv for ONNX Runtime, as defined in cpp_runtime/README.md.
#ifndef LCNN_SRC_ORT_LOOKUP_CONV_OP_H_
#define LCNN_SRC_ORT_LOOKUP_CONV_OP_H_

#include "ort_abi.h"

namespace lcnn::ort {

constexpr const char* kDomain = "ai.lcnn";

// The operator's table of callbacks; one for the life of the library, shared by all sessions.
const OrtCustomOp* LookupConvOp();

// For callbacks that are not handed the API.
void SetApi(const OrtApi* api);

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_LOOKUP_CONV_OP_H_
