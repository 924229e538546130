// Inputs of the operators on bytes.
#ifndef LCNN_SRC_ORT_NARROW_INPUTS_H_
#define LCNN_SRC_ORT_NARROW_INPUTS_H_

#include "lcnn/narrow_conv.h"
#include "ort/node.h"

namespace lcnn::ort {

// A constant of one type; `count` elements unless negative. Throws std::invalid_argument.
TensorView TypedConstant(const OrtApi* api, const OrtKernelInfo* info, const NamedInput& input,
                         int element_type, int64_t count);

// A scale and, as the next input, its zero point. Throws std::invalid_argument.
ByteScale ReadByteScale(const OrtApi* api, const OrtKernelInfo* info, const NamedInput& scale,
                        const char* zero_point);

// An input at run time. Throws std::invalid_argument unless it has rank 4.
TensorView ImagesInput(const OrtApi* api, const OrtKernelContext* context, const NamedInput& input,
                       const char* form);

// The output's data, of these dimensions.
void* Output(const OrtApi* api, OrtKernelContext* context, const std::vector<int64_t>& dims);

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_NARROW_INPUTS_H_
