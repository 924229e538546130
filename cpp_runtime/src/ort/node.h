// What the kernels of this library read from their node, and the loop they run in.
#ifndef LCNN_SRC_ORT_NODE_H_
#define LCNN_SRC_ORT_NODE_H_

#include <string>

#include "lcnn/types.h"
#include "ort/ort_handles.h"

namespace lcnn::ort {

// "LookupConv 'node name'"
std::string NodeSubject(const OrtApi* api, const OrtKernelInfo* info, const char* op);

// An input of an operator, for messages.
struct NamedInput {
  size_t index;
  const char* name;
};

// "input 2 (gaps)"
std::string InputText(const NamedInput& input);

// An initializer of the model. Throws std::invalid_argument.
TensorView ConstantInput(const OrtApi* api, const OrtKernelInfo* info, const NamedInput& input);
TensorView ConstantInput(const OrtApi* api, const OrtKernelInfo* info, const NamedInput& input,
                         size_t rank);
[[noreturn]] void FailType(const NamedInput& input, int type, const char* allowed);

struct Window {
  Axis height;
  Axis width;
};

// kernel_shape, strides, dilations and pads. Every attribute is required: a default would be a
// second definition of the operator. Throws std::invalid_argument.
Window ReadWindow(const OrtApi* api, const OrtKernelInfo* info);

// pool_kernel_shape, pool_strides and pool_pads; a kernel and strides of 1 where they are absent,
// as in files from before them.
Window ReadPool(const OrtApi* api, const OrtKernelInfo* info);

// The threads of the session; `run` and `context` of a ParallelFor.
struct LoopContext {
  const OrtApi* api;
  const OrtKernelContext* kernel_context;
};
void RunInThreadPool(void* context, size_t count, void (*task)(void*, size_t), void* argument);

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_NODE_H_
