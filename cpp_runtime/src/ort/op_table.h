// What the operators of this library have in common in ONNX Runtime's table of callbacks.
#ifndef LCNN_SRC_ORT_OP_TABLE_H_
#define LCNN_SRC_ORT_OP_TABLE_H_

#include "ort_abi.h"

namespace lcnn::ort {

constexpr const char* kDomain = "ai.lcnn";

// An operator of version 1 on the CPU with one float32 output; what is null is the operator's own.
OrtCustomOp CommonOp();

// The operators; one table each for the life of the library, shared by all sessions.
const OrtCustomOp* LookupConvOp();
const OrtCustomOp* MaxPoolOp();

// For callbacks that are not handed the API.
void SetApi(const OrtApi* api);
const OrtApi* Api();

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_OP_TABLE_H_
