// ai.lcnn::LookupConv for ONNX Runtime, as defined in cpp_runtime/README.md.
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "lcnn/lookup_conv.h"
#include "ort/node.h"
#include "ort/op_table.h"
#include "ort/shape_inference.h"

namespace lcnn::ort {
namespace {

// Inputs of the operator, in order.
enum Input : size_t { kX, kDictionary, kGaps, kCoefficients, kBias, kResidual, kInputCount };

constexpr const char* kInputNames[kInputCount] = {"X",    "D",       "gaps", "coefficients",
                                                  "bias", "residual"};

[[noreturn]] void Fail(const std::string& message) { throw std::invalid_argument(message); }

NamedInput Named(Input input) { return {static_cast<size_t>(input), kInputNames[input]}; }

// Optional, because files from before it are of the same version of the operator.
bool ReadHardSwish(const OrtApi* api, const OrtKernelInfo* info) {
  int64_t value = 0;
  OrtStatus* const absent = KernelInfoGetAttributeInt64::Of(api)(info, "hard_swish", &value);
  if (absent != nullptr) {
    ReleaseStatus::Of(api)(absent);
    return false;
  }
  if (value != 0 && value != 1) {
    Fail("attribute hard_swish is " + std::to_string(value) + "; it must be 0 or 1");
  }
  return value == 1;
}

LookupConvShape ReadAttributes(const OrtApi* api, const OrtKernelInfo* info) {
  LookupConvShape shape;
  const Window window = ReadWindow(api, info);
  shape.height = window.height;
  shape.width = window.width;
  Call<KernelInfoGetAttributeInt64>(api, info, "group", &shape.group);
  Call<KernelInfoGetAttributeFloat>(api, info, "clip_min", &shape.clip_min);
  Call<KernelInfoGetAttributeFloat>(api, info, "clip_max", &shape.clip_max);
  shape.hard_swish = ReadHardSwish(api, info);
  const Window pool = ReadPool(api, info);
  shape.pool_height = pool.height;
  shape.pool_width = pool.width;
  return shape;
}

std::vector<float> FloatValues(const TensorView& view, Input input) {
  const auto count = static_cast<size_t>(view.Count());
  std::vector<float> values(count);
  if (view.element_type == kElementFloat) {
    if (count > 0) std::memcpy(values.data(), view.data, count * sizeof(float));
  } else if (view.element_type == kElementFloat16) {
    values = Widened(static_cast<const uint16_t*>(view.data), count);
  } else {
    FailType(Named(input), view.element_type, "float32 (1) or float16 (10)");
  }
  return values;
}

std::vector<uint32_t> GapValues(const TensorView& view) {
  const auto count = static_cast<size_t>(view.Count());
  if (view.element_type == kElementUint8) {
    const auto* data = static_cast<const uint8_t*>(view.data);
    return std::vector<uint32_t>(data, data + count);
  }
  if (view.element_type == kElementUint16) {
    const auto* data = static_cast<const uint16_t*>(view.data);
    return std::vector<uint32_t>(data, data + count);
  }
  FailType(Named(kGaps), view.element_type, "uint8 (2) or uint16 (4)");
}

// Rows of D are split among the groups before the core sees them.
void SetSizes(const TensorView& dictionary, const TensorView& bias, LookupConvShape* shape) {
  if (shape->group < 1)
    Fail("group is " + std::to_string(shape->group) + "; it must be at least 1");
  if (dictionary.dims[0] % shape->group != 0) {
    Fail("D has " + std::to_string(dictionary.dims[0]) + " rows, not a multiple of group " +
         std::to_string(shape->group));
  }
  shape->dictionary_size = dictionary.dims[0] / shape->group;
  if (dictionary.dims[1] > INT64_MAX / shape->group) {
    Fail("D has shape " + ShapeText(dictionary.dims) + ", too large for group " +
         std::to_string(shape->group));
  }
  shape->channels = dictionary.dims[1] * shape->group;
  shape->out_channels = bias.dims[0];
}

const OrtValue* OptionalInput(const OrtApi* api, const OrtKernelContext* context, Input input) {
  size_t count = 0;
  Call<KernelContextGetInputCount>(api, context, &count);
  const OrtValue* value = nullptr;
  if (static_cast<size_t>(input) < count) {
    Call<KernelContextGetInput>(api, context, static_cast<size_t>(input), &value);
  }
  return value;
}

Residual ReadResidual(const OrtApi* api, const OrtValue* value,
                      const std::vector<int64_t>& output_dims, bool pools) {
  Residual residual;
  if (value == nullptr) return residual;
  const TensorView view = ViewTensor(api, value);
  if (view.Count() == 1) {
    residual.constant = view.floats()[0];
  } else if (pools) {
    Fail(InputText(Named(kResidual)) + " has shape " + ShapeText(view.dims) +
         "; it must have one element where the result is pooled");
  } else if (view.dims == output_dims) {
    residual.tensor = view.floats();
  } else {
    Fail(InputText(Named(kResidual)) + " has shape " + ShapeText(view.dims) +
         "; it must have one element or the output's shape " + ShapeText(output_dims));
  }
  return residual;
}

class LookupConvKernel {
 public:
  static constexpr const char* kName = "LookupConv";

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, kX);
    const std::vector<Dimension> bias = InputDimensions(api, context, kBias);
    if (x.size() == 4 && bias.size() == 1) SetOutputShape(api, context, x, bias[0]);
  }

  // Reads and checks attributes and constants. Throws std::exception.
  LookupConvKernel(const OrtApi* api, const OrtKernelInfo* info, std::string subject);

  // Throws std::exception. Const in every respect that callers can see: runs may overlap.
  void Compute(OrtKernelContext* context) const;

  const OrtApi* api() const { return api_; }
  const char* subject() const { return subject_.c_str(); }

 private:
  const OrtApi* api_;
  std::string subject_;
  std::unique_ptr<const LookupConv> conv_;
};

LookupConvKernel::LookupConvKernel(const OrtApi* api, const OrtKernelInfo* info,
                                   std::string subject)
    : api_(api), subject_(std::move(subject)) {
  const Isa isa = ChooseIsa();
  LookupConvShape shape = ReadAttributes(api, info);
  const TensorView dictionary = ConstantInput(api, info, Named(kDictionary), 2);
  const TensorView bias = ConstantInput(api, info, Named(kBias), 1);
  if (bias.element_type != kElementFloat) FailType(Named(kBias), bias.element_type, "float32 (1)");
  SetSizes(dictionary, bias, &shape);
  LookupConvConstants constants;
  constants.gaps = GapValues(ConstantInput(api, info, Named(kGaps), 1));
  constants.coefficients =
      FloatValues(ConstantInput(api, info, Named(kCoefficients), 1), kCoefficients);
  if (dictionary.element_type == kElementFloat) {
    constants.dictionary = dictionary.floats();
  } else if (dictionary.element_type == kElementFloat16) {
    constants.half_dictionary = static_cast<const uint16_t*>(dictionary.data);
  } else if (dictionary.element_type == kElementInt8) {
    constants.byte_dictionary = static_cast<const int8_t*>(dictionary.data);
  } else {
    FailType(Named(kDictionary), dictionary.element_type, "float32 (1), int8 (3) or float16 (10)");
  }
  constants.bias = bias.floats();
  conv_ = std::make_unique<const LookupConv>(shape, constants, isa);
}

void LookupConvKernel::Compute(OrtKernelContext* context) const {
  const OrtKernelContext* const inputs = context;
  const OrtValue* x_value = nullptr;
  Call<KernelContextGetInput>(api_, inputs, size_t{kX}, &x_value);
  const TensorView x = ViewTensor(api_, x_value);
  const LookupConvShape& shape = conv_->shape();
  if (x.dims.size() != 4 || x.dims[1] != shape.channels) {
    Fail(InputText(Named(kX)) + " has shape " + ShapeText(x.dims) + "; it must be (N, " +
         std::to_string(shape.channels) + ", H, W)");
  }
  std::vector<int64_t> y_dims = {x.dims[0], shape.out_channels,
                                 OutputExtent(shape.height, x.dims[2], "height"),
                                 OutputExtent(shape.width, x.dims[3], "width")};
  if (shape.pools()) {
    y_dims[2] = OutputExtent(shape.pool_height, y_dims[2], "height to pool");
    y_dims[3] = OutputExtent(shape.pool_width, y_dims[3], "width to pool");
  }
  const Residual residual =
      ReadResidual(api_, OptionalInput(api_, inputs, kResidual), y_dims, shape.pools());

  OrtValue* y_value = nullptr;
  Call<KernelContextGetOutput>(api_, context, size_t{0}, y_dims.data(), y_dims.size(), &y_value);
  if (y_dims[0] == 0 || y_dims[1] == 0) return;
  void* y = nullptr;
  Call<GetTensorMutableData>(api_, y_value, &y);

  const auto plan = conv_->PlanFor(x.dims[0], x.dims[2], x.dims[3]);
  const Scratch scratch(api_, inputs, ScratchBytes(*plan));
  LoopContext loop = {api_, inputs};
  conv_->Run(*plan, x.floats(), residual, static_cast<float*>(y), scratch.data(),
             {RunInThreadPool, &loop});
}

// D, gaps and coefficients each come in two types; the kernel checks them.
int LCNN_ORT_CALL GetInputType(const OrtCustomOp*, size_t index) {
  const bool any = index == kDictionary || index == kGaps || index == kCoefficients;
  return any ? kElementUndefined : kElementFloat;
}
size_t LCNN_ORT_CALL GetInputTypeCount(const OrtCustomOp*) { return kInputCount; }
int LCNN_ORT_CALL GetInputCharacteristic(const OrtCustomOp*, size_t index) {
  return index == kResidual ? kInputOptional : kInputRequired;
}

OrtCustomOp MakeOp() {
  OrtCustomOp op = OpOf<LookupConvKernel>();
  op.GetInputType = GetInputType;
  op.GetInputTypeCount = GetInputTypeCount;
  op.GetInputCharacteristic = GetInputCharacteristic;
  return op;
}

}  // namespace

const OrtCustomOp* LookupConvOp() {
  static const OrtCustomOp op = MakeOp();
  return &op;
}

}  // namespace lcnn::ort
