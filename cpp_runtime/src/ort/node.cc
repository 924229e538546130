#include "ort/node.h"

namespace lcnn::ort {
namespace {

std::vector<int64_t> IntsAttribute(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                                   size_t length) {
  size_t size = 0;
  Call<KernelInfoGetAttributeInt64s>(api, info, name, static_cast<int64_t*>(nullptr), &size);
  std::vector<int64_t> values(size);
  if (size > 0) Call<KernelInfoGetAttributeInt64s>(api, info, name, values.data(), &size);
  if (size != length) {
    throw std::invalid_argument("attribute " + std::string(name) + " is " + ShapeText(values) +
                                "; it must have " + std::to_string(length) + " elements");
  }
  return values;
}

bool HasIntsAttribute(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  size_t size = 0;
  OrtStatus* const absent = KernelInfoGetAttributeInt64s::Of(api)(info, name, nullptr, &size);
  if (absent == nullptr) return true;
  ReleaseStatus::Of(api)(absent);
  return false;
}

}  // namespace

std::string NodeSubject(const OrtApi* api, const OrtKernelInfo* info, const char* op) {
  size_t size = 0;  // with the final zero
  Call<KernelInfoGetNodeName>(api, info, static_cast<char*>(nullptr), &size);
  std::string name(size, '\0');
  Call<KernelInfoGetNodeName>(api, info, &name[0], &size);
  return std::string(op) + " '" + name.c_str() + "'";
}

std::string InputText(const NamedInput& input) {
  return "input " + std::to_string(input.index) + " (" + input.name + ")";
}

TensorView ConstantInput(const OrtApi* api, const OrtKernelInfo* info, const NamedInput& input) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  Call<KernelInfoGetConstantInput>(api, info, input.index, &is_constant, &value);
  if (is_constant == 0 || value == nullptr) {
    throw std::invalid_argument(InputText(input) +
                                " is not a constant; it must be an initializer of the model");
  }
  return ViewTensor(api, value);
}

TensorView ConstantInput(const OrtApi* api, const OrtKernelInfo* info, const NamedInput& input,
                         size_t rank) {
  TensorView view = ConstantInput(api, info, input);
  if (view.dims.size() != rank) {
    throw std::invalid_argument(InputText(input) + " has shape " + ShapeText(view.dims) +
                                "; it must have rank " + std::to_string(rank));
  }
  return view;
}

void FailType(const NamedInput& input, int type, const char* allowed) {
  throw std::invalid_argument(InputText(input) + " has ONNX element type " + std::to_string(type) +
                              "; it must be " + allowed);
}

Window ReadWindow(const OrtApi* api, const OrtKernelInfo* info) {
  const auto kernel = IntsAttribute(api, info, "kernel_shape", 2);
  const auto strides = IntsAttribute(api, info, "strides", 2);
  const auto dilations = IntsAttribute(api, info, "dilations", 2);
  const auto pads = IntsAttribute(api, info, "pads", 4);
  return {{kernel[0], strides[0], dilations[0], pads[0], pads[2]},
          {kernel[1], strides[1], dilations[1], pads[1], pads[3]}};
}

Window ReadPool(const OrtApi* api, const OrtKernelInfo* info) {
  if (!HasIntsAttribute(api, info, "pool_kernel_shape")) return {};
  const auto kernel = IntsAttribute(api, info, "pool_kernel_shape", 2);
  const auto strides = IntsAttribute(api, info, "pool_strides", 2);
  const auto pads = IntsAttribute(api, info, "pool_pads", 4);
  return {{kernel[0], strides[0], 1, pads[0], pads[2]},
          {kernel[1], strides[1], 1, pads[1], pads[3]}};
}

void RunInThreadPool(void* context, size_t count, void (*task)(void*, size_t), void* argument) {
  const auto& loop = *static_cast<const LoopContext*>(context);
  // 0 batches: as many as the session has threads.
  Call<KernelContextParallelFor>(loop.api, loop.kernel_context, task, count, size_t{0}, argument);
}

}  // namespace lcnn::ort
