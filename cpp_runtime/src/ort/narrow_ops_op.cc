// What stands between convolutions of narrow numbers, for ONNX Runtime, as defined in
// cpp_runtime/README.md.
#include <string>
#include <utility>

#include "lcnn/narrow_ops.h"
#include "ort/narrow_inputs.h"
#include "ort/op_table.h"
#include "ort/shape_inference.h"

namespace lcnn::ort {
namespace {

constexpr NamedInput kX = {0, "X"};
constexpr const char* kNchw = "(N, C, H, W)";
constexpr const char* kNhwc = "(N, H, W, C)";

const uint8_t* Bytes(const TensorView& view) { return static_cast<const uint8_t*>(view.data); }

const uint16_t* Halves(const TensorView& view) { return static_cast<const uint16_t*>(view.data); }

ImageSize NhwcSize(const std::vector<int64_t>& dims) {
  return {dims[0], dims[3], dims[1], dims[2]};
}

// What the operators of this file have in common.
class Node {
 public:
  Node(const OrtApi* api, std::string subject)
      : api_(api), subject_(std::move(subject)), isa_(ChooseIsa()) {}
  const OrtApi* api() const { return api_; }
  const char* subject() const { return subject_.c_str(); }
  Isa isa() const { return isa_; }

 private:
  const OrtApi* api_;
  std::string subject_;
  Isa isa_;
};

// Checked as the core checks it.
ByteScale ReadScale(const OrtApi* api, const OrtKernelInfo* info, const NamedInput& scale,
                    const char* zero_point) {
  const ByteScale read = ReadByteScale(api, info, scale, zero_point);
  CheckScale(scale.name, read.scale);
  return read;
}

class Quantize : public Node {
 public:
  static constexpr const char* kName = "QuantizeNhwc";
  static constexpr int kInputs[] = {kElementFloat, kElementFloat, kElementUint8};
  static constexpr int kOutput = kElementUint8;

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, 0);
    if (x.size() == 4) SetOutput(api, context, {x[0], x[2], x[3], x[1]}, kOutput);
  }
  Quantize(const OrtApi* api, const OrtKernelInfo* info, std::string subject)
      : Node(api, std::move(subject)),
        scale_(ReadScale(api, info, {1, "y_scale"}, "y_zero_point")) {}
  void Compute(OrtKernelContext* context) const {
    const TensorView x = ImagesInput(api(), context, kX, kNchw);
    const ImageSize size = {x.dims[0], x.dims[1], x.dims[2], x.dims[3]};
    void* const y = Output(api(), context, {size.batch, size.height, size.width, size.channels});
    LoopContext loop = {api(), context};
    QuantizeNhwc(size, scale_, isa(), x.floats(), static_cast<uint8_t*>(y),
                 {RunInThreadPool, &loop});
  }

 private:
  ByteScale scale_;
};

class Dequantize : public Node {
 public:
  static constexpr const char* kName = "DequantizeNhwc";
  static constexpr int kInputs[] = {kElementUint8, kElementFloat, kElementUint8};
  static constexpr int kOutput = kElementFloat;

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, 0);
    if (x.size() == 4) SetOutput(api, context, {x[0], x[3], x[1], x[2]}, kOutput);
  }
  Dequantize(const OrtApi* api, const OrtKernelInfo* info, std::string subject)
      : Node(api, std::move(subject)),
        scale_(ReadScale(api, info, {1, "x_scale"}, "x_zero_point")) {}
  void Compute(OrtKernelContext* context) const {
    const TensorView x = ImagesInput(api(), context, kX, kNhwc);
    const ImageSize size = NhwcSize(x.dims);
    void* const y = Output(api(), context, {size.batch, size.channels, size.height, size.width});
    LoopContext loop = {api(), context};
    DequantizeNhwc(size, scale_, isa(), Bytes(x), static_cast<float*>(y), {RunInThreadPool, &loop});
  }

 private:
  ByteScale scale_;
};

// Bytes of bfloat16 or the reverse, of any shape.
template <bool TO_BYTES>
class CastBytes : public Node {
 public:
  static constexpr const char* kName = TO_BYTES ? "QuantizeBfloat16" : "DequantizeBfloat16";
  static constexpr int kInputs[] = {TO_BYTES ? kElementBfloat16 : kElementUint8, kElementFloat,
                                    kElementUint8};
  static constexpr int kOutput = TO_BYTES ? kElementUint8 : kElementBfloat16;

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, 0);
    if (!x.empty()) SetOutput(api, context, x, kOutput);
  }
  CastBytes(const OrtApi* api, const OrtKernelInfo* info, std::string subject)
      : Node(api, std::move(subject)),
        scale_(ReadScale(api, info, {1, TO_BYTES ? "y_scale" : "x_scale"},
                         TO_BYTES ? "y_zero_point" : "x_zero_point")) {}
  void Compute(OrtKernelContext* context) const {
    const OrtKernelContext* const inputs = context;
    const OrtValue* value = nullptr;
    Call<KernelContextGetInput>(api(), inputs, size_t{0}, &value);
    const TensorView x = ViewTensor(api(), value);
    void* const y = Output(api(), context, x.dims);
    LoopContext loop = {api(), inputs};
    const ParallelFor parallel_for = {RunInThreadPool, &loop};
    if constexpr (TO_BYTES) {
      QuantizeBfloat16(scale_, isa(), x.Count(), Halves(x), static_cast<uint8_t*>(y), parallel_for);
    } else {
      DequantizeBfloat16(scale_, isa(), x.Count(), Bytes(x), static_cast<uint16_t*>(y),
                         parallel_for);
    }
  }

 private:
  ByteScale scale_;
};

// `T` tells the type apart: uint8_t, or uint16_t for bfloat16.
template <class T>
class Pool : public Node {
 public:
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr const char* kName = kHalf ? "Bfloat16NhwcMaxPool" : "NhwcMaxPool";
  static constexpr int kOutput = kHalf ? kElementBfloat16 : kElementUint8;
  static constexpr int kInputs[] = {kOutput};

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, 0);
    if (x.size() != 4) return;
    const std::vector<Dimension> plane = WindowedPlane(api, context, x[1], x[2]);
    SetOutput(api, context, {x[0], plane[0], plane[1], x[3]}, kOutput);
  }
  Pool(const OrtApi* api, const OrtKernelInfo* info, std::string subject)
      : Node(api, std::move(subject)) {
    const Window window = ReadWindow(api, info);
    shape_ = {window.height, window.width};
    CheckMaxPool(shape_);
  }
  void Compute(OrtKernelContext* context) const {
    const TensorView x = ImagesInput(api(), context, kX, kNhwc);
    const ImageSize size = NhwcSize(x.dims);
    void* const y = Output(api(), context,
                           {size.batch, OutputExtent(shape_.height, size.height, "height"),
                            OutputExtent(shape_.width, size.width, "width"), size.channels});
    LoopContext loop = {api(), context};
    if constexpr (kHalf) {
      Bfloat16NhwcMaxPool(shape_, size, isa(), Halves(x), static_cast<T*>(y),
                          {RunInThreadPool, &loop});
    } else {
      NhwcMaxPool(shape_, size, isa(), Bytes(x), static_cast<T*>(y), {RunInThreadPool, &loop});
    }
  }

 private:
  MaxPoolShape shape_;
};

class ToHalf : public Node {
 public:
  static constexpr const char* kName = "ToBfloat16Nhwc";
  static constexpr int kInputs[] = {kElementFloat};
  static constexpr int kOutput = kElementBfloat16;

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, 0);
    if (x.size() == 4) SetOutput(api, context, {x[0], x[2], x[3], x[1]}, kOutput);
  }
  ToHalf(const OrtApi* api, const OrtKernelInfo*, std::string subject)
      : Node(api, std::move(subject)) {}
  void Compute(OrtKernelContext* context) const {
    const TensorView x = ImagesInput(api(), context, kX, kNchw);
    const ImageSize size = {x.dims[0], x.dims[1], x.dims[2], x.dims[3]};
    void* const y = Output(api(), context, {size.batch, size.height, size.width, size.channels});
    LoopContext loop = {api(), context};
    ToBfloat16Nhwc(size, isa(), x.floats(), static_cast<uint16_t*>(y), {RunInThreadPool, &loop});
  }
};

class FromHalf : public Node {
 public:
  static constexpr const char* kName = "FromBfloat16Nhwc";
  static constexpr int kInputs[] = {kElementBfloat16};
  static constexpr int kOutput = kElementFloat;

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, 0);
    if (x.size() == 4) SetOutput(api, context, {x[0], x[3], x[1], x[2]}, kOutput);
  }
  FromHalf(const OrtApi* api, const OrtKernelInfo*, std::string subject)
      : Node(api, std::move(subject)) {}
  void Compute(OrtKernelContext* context) const {
    const TensorView x = ImagesInput(api(), context, kX, kNhwc);
    const ImageSize size = NhwcSize(x.dims);
    void* const y = Output(api(), context, {size.batch, size.channels, size.height, size.width});
    LoopContext loop = {api(), context};
    FromBfloat16Nhwc(size, isa(), Halves(x), static_cast<float*>(y), {RunInThreadPool, &loop});
  }
};

class Average : public Node {
 public:
  static constexpr const char* kName = "QLinearGlobalAveragePool";
  static constexpr int kInputs[] = {kElementUint8, kElementFloat, kElementUint8, kElementFloat,
                                    kElementUint8};
  static constexpr int kOutput = kElementUint8;

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, 0);
    if (x.size() == 4) SetOutput(api, context, {x[0], {1, ""}, {1, ""}, x[3]}, kOutput);
  }
  Average(const OrtApi* api, const OrtKernelInfo* info, std::string subject)
      : Node(api, std::move(subject)),
        x_(ReadScale(api, info, {1, "x_scale"}, "x_zero_point")),
        y_(ReadScale(api, info, {3, "y_scale"}, "y_zero_point")) {}
  void Compute(OrtKernelContext* context) const {
    const TensorView x = ImagesInput(api(), context, kX, kNhwc);
    const ImageSize size = NhwcSize(x.dims);
    void* const y = Output(api(), context, {size.batch, 1, 1, size.channels});
    GlobalAveragePool(size, x_, y_, isa(), Bytes(x), static_cast<uint8_t*>(y));
  }

 private:
  ByteScale x_;
  ByteScale y_;
};

class Add : public Node {
 public:
  static constexpr const char* kName = "QLinearAdd";
  static constexpr int kInputs[] = {kElementUint8, kElementFloat, kElementUint8, kElementUint8,
                                    kElementFloat, kElementUint8, kElementFloat, kElementUint8};
  static constexpr int kOutput = kElementUint8;

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> a = InputDimensions(api, context, 0);
    if (!a.empty()) SetOutput(api, context, a, kOutput);
  }
  Add(const OrtApi* api, const OrtKernelInfo* info, std::string subject)
      : Node(api, std::move(subject)) {
    sum_.a = ReadByteScale(api, info, {1, "a_scale"}, "a_zero_point");
    sum_.b = ReadByteScale(api, info, {4, "b_scale"}, "b_zero_point");
    sum_.y = ReadByteScale(api, info, {6, "y_scale"}, "y_zero_point");
    Call<KernelInfoGetAttributeFloat>(api, info, "clip_min", &sum_.clip_min);
    Call<KernelInfoGetAttributeFloat>(api, info, "clip_max", &sum_.clip_max);
    CheckByteSum(sum_);
  }
  void Compute(OrtKernelContext* context) const {
    const OrtKernelContext* const inputs = context;
    const OrtValue *a_value = nullptr, *b_value = nullptr;
    Call<KernelContextGetInput>(api(), inputs, size_t{0}, &a_value);
    Call<KernelContextGetInput>(api(), inputs, size_t{3}, &b_value);
    const TensorView a = ViewTensor(api(), a_value), b = ViewTensor(api(), b_value);
    if (a.dims != b.dims) {
      throw std::invalid_argument(InputText({3, "B"}) + " has shape " + ShapeText(b.dims) +
                                  "; it must have that of A, " + ShapeText(a.dims));
    }
    void* const y = Output(api(), context, a.dims);
    LoopContext loop = {api(), inputs};
    AddBytes(sum_, isa(), a.Count(), Bytes(a), Bytes(b), static_cast<uint8_t*>(y),
             {RunInThreadPool, &loop});
  }

 private:
  ByteSum sum_ = {};
};

template <class Kernel>
const OrtCustomOp* TableOf() {
  static const OrtCustomOp op = [] {
    OrtCustomOp made = OpOf<Kernel>();
    made.GetInputType = [](const OrtCustomOp*, size_t index) { return Kernel::kInputs[index]; };
    made.GetInputTypeCount = [](const OrtCustomOp*) { return std::size(Kernel::kInputs); };
    made.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kInputRequired; };
    made.GetOutputType = [](const OrtCustomOp*, size_t) { return Kernel::kOutput; };
    return made;
  }();
  return &op;
}

}  // namespace

std::vector<const OrtCustomOp*> NarrowOps() {
  return {TableOf<Quantize>(),        TableOf<Dequantize>(), TableOf<Pool<uint8_t>>(),
          TableOf<Average>(),         TableOf<Add>(),        TableOf<Pool<uint16_t>>(),
          TableOf<ToHalf>(),          TableOf<FromHalf>(),   TableOf<CastBytes<true>>(),
          TableOf<CastBytes<false>>()};
}

}  // namespace lcnn::ort
