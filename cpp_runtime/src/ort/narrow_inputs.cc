#include "ort/narrow_inputs.h"

namespace lcnn::ort {
namespace {

const char* TypeText(int element_type) {
  if (element_type == kElementFloat) return "float32 (1)";
  if (element_type == kElementBfloat16) return "bfloat16 (16)";
  return element_type == kElementUint8 ? "uint8 (2)" : "int8 (3)";
}

}  // namespace

TensorView TypedConstant(const OrtApi* api, const OrtKernelInfo* info, const NamedInput& input,
                         int element_type, int64_t count) {
  TensorView view = ConstantInput(api, info, input);
  if (view.element_type != element_type) {
    FailType(input, view.element_type, TypeText(element_type));
  }
  if (count >= 0 && view.Count() != count) {
    throw std::invalid_argument(InputText(input) + " has shape " + ShapeText(view.dims) +
                                "; it must have " + std::to_string(count) + " elements");
  }
  return view;
}

ByteScale ReadByteScale(const OrtApi* api, const OrtKernelInfo* info, const NamedInput& scale,
                        const char* zero_point) {
  const TensorView zero = TypedConstant(api, info, {scale.index + 1, zero_point}, kElementUint8, 1);
  return {*TypedConstant(api, info, scale, kElementFloat, 1).floats(),
          *static_cast<const uint8_t*>(zero.data)};
}

TensorView ImagesInput(const OrtApi* api, const OrtKernelContext* context, const NamedInput& input,
                       const char* form) {
  const OrtValue* value = nullptr;
  Call<KernelContextGetInput>(api, context, input.index, &value);
  TensorView view = ViewTensor(api, value);
  if (view.dims.size() != 4) {
    throw std::invalid_argument(InputText(input) + " has shape " + ShapeText(view.dims) +
                                "; it must be " + form);
  }
  return view;
}

void* Output(const OrtApi* api, OrtKernelContext* context, const std::vector<int64_t>& dims) {
  OrtValue* value = nullptr;
  Call<KernelContextGetOutput>(api, context, size_t{0}, dims.data(), dims.size(), &value);
  void* data = nullptr;
  Call<GetTensorMutableData>(api, value, &data);
  return data;
}

}  // namespace lcnn::ort
