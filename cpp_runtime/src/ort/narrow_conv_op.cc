// Convolutions and lookup convolutions of bytes and of bfloat16 for ONNX Runtime, as defined in
// cpp_runtime/README.md.
#include <memory>
#include <string>
#include <utility>

#include "lcnn/narrow_conv.h"
#include "ort/narrow_inputs.h"
#include "ort/op_table.h"
#include "ort/shape_inference.h"

namespace lcnn::ort {
namespace {

// Inputs of all, in order.
enum Input : size_t {
  kX,
  kXScale,
  kXZero,
  kDictionary,
  kDictionaryScale,
  kWeights,
  kWeightScale,
  kBias,
  kYScale,
  kYZero,
  kResidual,
  kResidualScale,
  kResidualZero,
  kAllInputs
};

constexpr const char* kNames[kAllInputs] = {
    "X",    "x_scale", "x_zero_point", "D",        "d_scale", "W",           "w_scale",
    "bias", "y_scale", "y_zero_point", "residual", "r_scale", "r_zero_point"};
// Where there are bytes; where there is bfloat16, those that it does not have are undefined.
constexpr int kByteTypes[kAllInputs] = {kElementUint8, kElementFloat, kElementUint8, kElementInt8,
                                        kElementFloat, kElementInt8,  kElementFloat, kElementFloat,
                                        kElementFloat, kElementUint8, kElementUint8, kElementFloat,
                                        kElementUint8};
constexpr int kHalfTypes[kAllInputs] = {
    kElementBfloat16, kElementUndefined, kElementUndefined, kElementBfloat16,  kElementUndefined,
    kElementBfloat16, kElementUndefined, kElementFloat,     kElementUndefined, kElementUndefined,
    kElementBfloat16, kElementUndefined, kElementUndefined};

constexpr size_t kSmallScratch = 2048;

[[noreturn]] void Fail(const std::string& message) { throw std::invalid_argument(message); }

// Which of the operators.
struct Form {
  bool half;  // bfloat16, else bytes
  bool lookup;
  int output;  // the type of Y

  bool to_narrow() const { return output == (half ? kElementBfloat16 : kElementUint8); }

  int Type(Input input) const { return half ? kHalfTypes[input] : kByteTypes[input]; }
  bool Has(Input input) const {
    const bool dictionary = input == kDictionary || input == kDictionaryScale;
    return Type(input) != kElementUndefined && (lookup || !dictionary) &&
           (to_narrow() || input < kYScale);
  }
  // Of those that it has.
  std::vector<Input> Inputs() const {
    std::vector<Input> inputs;
    for (size_t i = 0; i < kAllInputs; ++i) {
      if (Has(static_cast<Input>(i))) inputs.push_back(static_cast<Input>(i));
    }
    return inputs;
  }
  NamedInput Named(Input input) const {
    size_t index = 0;
    for (size_t i = 0; i < input; ++i) index += Has(static_cast<Input>(i)) ? 1 : 0;
    return {index, kNames[input]};
  }
};

// O and depth from the constants' shapes.
void SetSizes(const Form& form, const TensorView& weights, const TensorView* dictionary,
              NarrowConvShape* shape) {
  if (shape->group < 1) {
    Fail("group is " + std::to_string(shape->group) + "; it must be at least 1");
  }
  const std::string w_text =
      InputText(form.Named(kWeights)) + " has shape " + ShapeText(weights.dims);
  if (weights.dims.size() != 4) Fail(w_text + "; it must have rank 4");
  if (weights.dims[1] != shape->height.kernel || weights.dims[2] != shape->width.kernel) {
    Fail(w_text + "; it must be (O, " + std::to_string(shape->height.kernel) + ", " +
         std::to_string(shape->width.kernel) + ", K) by kernel_shape");
  }
  shape->out_channels = weights.dims[0];
  int64_t of_group = weights.dims[3];
  if (dictionary != nullptr) {
    const std::string d_text =
        InputText(form.Named(kDictionary)) + " has shape " + ShapeText(dictionary->dims);
    if (dictionary->dims.size() != 2) Fail(d_text + "; it must have rank 2");
    shape->dictionary_size = weights.dims[3];
    if (shape->dictionary_size > INT64_MAX / shape->group ||
        dictionary->dims[0] != shape->dictionary_size * shape->group) {
      Fail(d_text + "; it must have group * K rows, K = " + std::to_string(shape->dictionary_size) +
           " as in W");
    }
    of_group = dictionary->dims[1];
  }
  if (of_group > INT64_MAX / shape->group) {
    Fail(w_text + ", too large for group " + std::to_string(shape->group));
  }
  shape->channels = of_group * shape->group;
}

NarrowConvShape ReadAttributes(const Form& form, const OrtApi* api, const OrtKernelInfo* info) {
  NarrowConvShape shape;
  shape.lookup = form.lookup;
  shape.to_narrow = form.to_narrow();
  shape.to_bfloat16 = form.output == kElementBfloat16 && !form.half;
  const Window window = ReadWindow(api, info);
  shape.height = window.height;
  shape.width = window.width;
  Call<KernelInfoGetAttributeInt64>(api, info, "group", &shape.group);
  Call<KernelInfoGetAttributeFloat>(api, info, "clip_min", &shape.clip_min);
  Call<KernelInfoGetAttributeFloat>(api, info, "clip_max", &shape.clip_max);
  return shape;
}

std::unique_ptr<const NarrowConv> ReadConv(const Form& form, const OrtApi* api,
                                           const OrtKernelInfo* info) {
  const Isa isa = ChooseIsa();
  NarrowConvShape shape = ReadAttributes(form, api, info);
  const auto constant = [&](Input input, int64_t count) {
    return TypedConstant(api, info, form.Named(input), form.Type(input), count);
  };
  const auto scale = [&](Input input, Input zero) {
    return ReadByteScale(api, info, form.Named(input), kNames[zero]);
  };
  const TensorView weights = constant(kWeights, -1);
  TensorView dictionary;
  if (form.lookup) dictionary = constant(kDictionary, -1);
  SetSizes(form, weights, form.lookup ? &dictionary : nullptr, &shape);
  const float* const bias = constant(kBias, shape.out_channels).floats();
  if (form.half) {
    const Bfloat16ConvConstants constants = {static_cast<const uint16_t*>(dictionary.data),
                                             static_cast<const uint16_t*>(weights.data), bias};
    return std::make_unique<const NarrowConv>(shape, constants, isa);
  }
  ByteConvConstants constants;
  constants.x = scale(kXScale, kXZero);
  constants.dictionary = static_cast<const int8_t*>(dictionary.data);
  if (form.lookup) {
    constants.dictionary_scale = constant(kDictionaryScale, dictionary.dims[0]).floats();
  }
  constants.weights = static_cast<const int8_t*>(weights.data);
  constants.weight_scale = constant(kWeightScale, shape.out_channels).floats();
  constants.bias = bias;
  if (form.to_narrow()) {
    constants.y = scale(kYScale, kYZero);
    constants.residual = scale(kResidualScale, kResidualZero);
  }
  return std::make_unique<const NarrowConv>(shape, constants, isa);
}

class NarrowConvKernel {
 public:
  NarrowConvKernel(const Form& form, const OrtApi* api, const OrtKernelInfo* info,
                   std::string subject)
      : api_(api), subject_(std::move(subject)), form_(form), conv_(ReadConv(form, api, info)) {
    if (form.Has(kResidualScale)) {
      residual_zero_ =
          ReadByteScale(api, info, form.Named(kResidualScale), kNames[kResidualZero]).zero_point;
    }
  }

  static void InferShapeOf(const Form& form, const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, kX);
    const std::vector<Dimension> w = InputDimensions(api, context, form.Named(kWeights).index);
    if (x.size() != 4 || w.size() != 4) return;
    const std::vector<Dimension> plane = WindowedPlane(api, context, x[1], x[2]);
    std::vector<Dimension> y = {x[0], plane[0], plane[1], w[0]};
    if (form.output == kElementFloat) y = {x[0], w[0], plane[0], plane[1]};
    SetOutput(api, context, y, form.output);
  }

  void Compute(OrtKernelContext* context) const;

  const OrtApi* api() const { return api_; }
  const char* subject() const { return subject_.c_str(); }

 private:
  // Null: nothing is added.
  const void* Residual(const OrtKernelContext* context, const std::vector<int64_t>& y_dims) const;

  const OrtApi* api_;
  std::string subject_;
  Form form_;
  std::unique_ptr<const NarrowConv> conv_;
  uint8_t residual_zero_ = 0;
};

const void* NarrowConvKernel::Residual(const OrtKernelContext* context,
                                       const std::vector<int64_t>& y_dims) const {
  if (!form_.to_narrow()) return nullptr;
  const NamedInput input = form_.Named(kResidual);
  const OrtValue* value = nullptr;
  Call<KernelContextGetInput>(api_, context, input.index, &value);
  const TensorView view = ViewTensor(api_, value);
  if (view.dims == y_dims) return view.data;
  if (view.dims != std::vector<int64_t>{1}) {
    Fail(InputText(input) + " has shape " + ShapeText(view.dims) +
         "; it must be (1), for none, or the output's shape " + ShapeText(y_dims));
  }
  // The operators' definition would add any other.
  const bool adds_nothing = form_.half ? (*static_cast<const uint16_t*>(view.data) & 0x7FFF) == 0
                                       : *static_cast<const uint8_t*>(view.data) == residual_zero_;
  if (!adds_nothing) {
    Fail(InputText(input) + " has one element that is not zero; it must be " +
         (form_.half ? "0" : "r_zero_point, " + std::to_string(residual_zero_)) +
         ", for none, or have the output's shape " + ShapeText(y_dims));
  }
  return nullptr;
}

void NarrowConvKernel::Compute(OrtKernelContext* context) const {
  const OrtKernelContext* const inputs = context;
  const NarrowConvShape& shape = conv_->shape();
  const TensorView x = ImagesInput(api_, inputs, form_.Named(kX), "(N, H, W, C)");
  if (x.dims[3] != shape.channels) {
    Fail(InputText(form_.Named(kX)) + " has shape " + ShapeText(x.dims) +
         "; it must be (N, H, W, " + std::to_string(shape.channels) + ")");
  }
  const int64_t batch = x.dims[0];
  const int64_t height = OutputExtent(shape.height, x.dims[1], "height");
  const int64_t width = OutputExtent(shape.width, x.dims[2], "width");
  std::vector<int64_t> y_dims = {batch, height, width, shape.out_channels};
  if (form_.output == kElementFloat) y_dims = {batch, shape.out_channels, height, width};
  const void* const residual = Residual(inputs, y_dims);
  void* const y = Output(api_, context, y_dims);
  if (batch == 0 || shape.out_channels == 0) return;
  LoopContext loop = {api_, inputs};
  const NarrowConvInput input = {batch, x.dims[1], x.dims[2], x.data, residual};
  const size_t bytes = conv_->ScratchBytes(batch, x.dims[1], x.dims[2]);
  // Asking for memory takes longer than the rest of a small node.
  if (bytes <= kSmallScratch) {
    uint8_t small[kSmallScratch];
    conv_->Run(input, y, small, {RunInThreadPool, &loop});
    return;
  }
  const Scratch scratch(api_, inputs, bytes);
  conv_->Run(input, y, scratch.data(), {RunInThreadPool, &loop});
}

constexpr const char* NameOf(bool half, bool lookup, int output) {
  const bool floats = output == kElementFloat;
  if (half && lookup) return floats ? "Bfloat16LookupConvToFloat" : "Bfloat16LookupConv";
  if (half) return floats ? "Bfloat16ConvToFloat" : "Bfloat16Conv";
  if (output == kElementBfloat16) {
    return lookup ? "LookupConvIntegerToBfloat16" : "ConvIntegerToBfloat16";
  }
  if (lookup) return floats ? "LookupConvIntegerToFloat" : "QLinearLookupConv";
  return floats ? "ConvIntegerToFloat" : "QLinearConv";
}

// The operator's name, and its form.
template <bool HALF, bool LOOKUP, int OUTPUT>
struct FormKernel : NarrowConvKernel {
  static constexpr Form kForm = {HALF, LOOKUP, OUTPUT};
  static constexpr const char* kName = NameOf(HALF, LOOKUP, OUTPUT);

  FormKernel(const OrtApi* api, const OrtKernelInfo* info, std::string subject)
      : NarrowConvKernel(kForm, api, info, std::move(subject)) {}
  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    InferShapeOf(kForm, api, context);
  }
};

template <bool HALF, bool LOOKUP, int OUTPUT>
const OrtCustomOp* OpOfForm() {
  using Kernel = FormKernel<HALF, LOOKUP, OUTPUT>;
  static const OrtCustomOp op = [] {
    OrtCustomOp made = OpOf<Kernel>();
    made.GetInputType = [](const OrtCustomOp*, size_t index) {
      return Kernel::kForm.Type(Kernel::kForm.Inputs()[index]);
    };
    made.GetInputTypeCount = [](const OrtCustomOp*) { return Kernel::kForm.Inputs().size(); };
    made.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kInputRequired; };
    made.GetOutputType = [](const OrtCustomOp*, size_t) { return OUTPUT; };
    return made;
  }();
  return &op;
}

}  // namespace

std::vector<const OrtCustomOp*> NarrowConvOps() {
  return {OpOfForm<false, false, kElementUint8>(),    OpOfForm<false, true, kElementUint8>(),
          OpOfForm<false, false, kElementFloat>(),    OpOfForm<false, true, kElementFloat>(),
          OpOfForm<false, false, kElementBfloat16>(), OpOfForm<false, true, kElementBfloat16>(),
          OpOfForm<true, false, kElementBfloat16>(),  OpOfForm<true, true, kElementBfloat16>(),
          OpOfForm<true, false, kElementFloat>(),     OpOfForm<true, true, kElementFloat>()};
}

}  // namespace lcnn::ort
