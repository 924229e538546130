// ai.lcnn::MaxPool for ONNX Runtime, as defined in cpp_runtime/README.md.
#include <memory>
#include <utility>

#include "lcnn/max_pool.h"
#include "ort/node.h"
#include "ort/op_table.h"
#include "ort/shape_inference.h"

namespace lcnn::ort {
namespace {

class MaxPoolKernel {
 public:
  static constexpr const char* kName = "MaxPool";

  static void InferShape(const OrtApi* api, OrtShapeInferContext* context) {
    const std::vector<Dimension> x = InputDimensions(api, context, 0);
    if (x.size() == 4) SetOutputShape(api, context, x, x[1]);
  }

  MaxPoolKernel(const OrtApi* api, const OrtKernelInfo* info, std::string subject)
      : api_(api), subject_(std::move(subject)), isa_(ChooseIsa()) {
    const Window window = ReadWindow(api, info);
    shape_ = {window.height, window.width};
    CheckMaxPool(shape_);
  }

  void Compute(OrtKernelContext* context) const {
    const OrtKernelContext* const inputs = context;
    const OrtValue* x_value = nullptr;
    Call<KernelContextGetInput>(api_, inputs, size_t{0}, &x_value);
    const TensorView x = ViewTensor(api_, x_value);
    if (x.dims.size() != 4) {
      throw std::invalid_argument("input 0 (X) has shape " + ShapeText(x.dims) +
                                  "; it must be (N, C, H, W)");
    }
    const std::vector<int64_t> y_dims = {x.dims[0], x.dims[1],
                                         OutputExtent(shape_.height, x.dims[2], "height"),
                                         OutputExtent(shape_.width, x.dims[3], "width")};
    OrtValue* y_value = nullptr;
    Call<KernelContextGetOutput>(api_, context, size_t{0}, y_dims.data(), y_dims.size(), &y_value);
    if (x.dims[0] == 0 || x.dims[1] == 0) return;
    void* y = nullptr;
    Call<GetTensorMutableData>(api_, y_value, &y);
    LoopContext loop = {api_, inputs};
    MaxPool(shape_, isa_, x.dims[0] * x.dims[1], x.dims[2], x.dims[3], x.floats(),
            static_cast<float*>(y), {RunInThreadPool, &loop});
  }

  const OrtApi* api() const { return api_; }
  const char* subject() const { return subject_.c_str(); }

 private:
  const OrtApi* api_;
  std::string subject_;
  Isa isa_;
  MaxPoolShape shape_;
};

int LCNN_ORT_CALL GetInputType(const OrtCustomOp*, size_t) { return kElementFloat; }
size_t LCNN_ORT_CALL GetInputTypeCount(const OrtCustomOp*) { return 1; }
int LCNN_ORT_CALL GetInputCharacteristic(const OrtCustomOp*, size_t) { return kInputRequired; }

OrtCustomOp MakeOp() {
  OrtCustomOp op = OpOf<MaxPoolKernel>();
  op.GetInputType = GetInputType;
  op.GetInputTypeCount = GetInputTypeCount;
  op.GetInputCharacteristic = GetInputCharacteristic;
  return op;
}

}  // namespace

const OrtCustomOp* MaxPoolOp() {
  static const OrtCustomOp op = MakeOp();
  return &op;
}

}  // namespace lcnn::ort
