#include "ort/ort_handles.h"

#include <limits>

namespace lcnn::ort {

void Check(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  std::string message;
  try {
    message = GetErrorMessage::Of(api)(status);
  } catch (const std::bad_alloc&) {
    ReleaseStatus::Of(api)(status);
    throw;
  }
  ReleaseStatus::Of(api)(status);
  throw std::runtime_error(message);
}

int64_t TensorView::Count() const {
  int64_t count = 1;
  for (const int64_t dim : dims) {
    if (dim != 0 && count > std::numeric_limits<int64_t>::max() / dim) {
      throw std::invalid_argument("a tensor of shape " + ShapeText(dims) + " is too large");
    }
    count *= dim;
  }
  return count;
}

std::vector<int64_t> Dimensions(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  Call<GetDimensionsCount>(api, info, &rank);
  std::vector<int64_t> dims(rank);
  Call<GetDimensions>(api, info, dims.data(), rank);
  return dims;
}

TensorView ViewTensor(const OrtApi* api, const OrtValue* value) {
  TensorView view;
  Owned<OrtTensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfo> info(api);
  Call<GetTensorTypeAndShape>(api, value, info.out());
  Call<GetTensorElementType>(api, info.get(), &view.element_type);
  view.dims = Dimensions(api, info.get());
  // The C interface has no getter for constant data.
  void* data = nullptr;
  Call<GetTensorMutableData>(api, const_cast<OrtValue*>(value), &data);
  view.data = data;
  return view;
}

std::string ShapeText(const std::vector<int64_t>& dims) {
  std::string text = "(";
  for (size_t i = 0; i < dims.size(); ++i) {
    text += (i > 0 ? ", " : "") + (dims[i] < 0 ? std::string("?") : std::to_string(dims[i]));
  }
  return text + ")";
}

Scratch::Scratch(const OrtApi* api, const OrtKernelContext* context, size_t bytes)
    : api_(api), allocator_(api) {
  Owned<OrtMemoryInfo, ReleaseMemoryInfo> memory(api);
  Call<CreateCpuMemoryInfo>(api, kArenaAllocator, kMemoryDefault, memory.out());
  const OrtMemoryInfo* const info = memory.get();
  Call<KernelContextGetAllocator>(api, context, info, allocator_.out());
  Call<AllocatorAlloc>(api, allocator_.get(), bytes, &data_);
  if (data_ == nullptr) throw std::bad_alloc();
}

Scratch::~Scratch() {
  // Freeing what was allocated cannot fail in a way that could be handled here.
  OrtStatus* const status = AllocatorFree::Of(api_)(allocator_.get(), data_);
  if (status != nullptr) ReleaseStatus::Of(api_)(status);
}

}  // namespace lcnn::ort
