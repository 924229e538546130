// ONNX Runtime's C calls with errors as exceptions and ownership in destructors.
#ifndef LCNN_SRC_ORT_ORT_HANDLES_H_
#define LCNN_SRC_ORT_ORT_HANDLES_H_

#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort/ort_abi.h"

namespace lcnn::ort {

// Throws std::runtime_error with the status' message, which it releases.
void Check(const OrtApi* api, OrtStatus* status);

// Calls a function of the table that returns a status.
template <class Function, class... Arguments>
void Call(const OrtApi* api, Arguments... arguments) {
  Check(api, Function::Of(api)(arguments...));
}

// Runs body() and returns null, or the exception it threw as a status that begins with `subject`.
template <class Body>
OrtStatus* Guard(const OrtApi* api, const char* subject, const Body& body) noexcept {
  const auto status = [&](int code, const char* message) {
    try {
      return CreateStatus::Of(api)(code, (std::string(subject) + ": " + message).c_str());
    } catch (...) {
      return CreateStatus::Of(api)(code, message);
    }
  };
  try {
    body();
    return nullptr;
  } catch (const std::invalid_argument& error) {
    return status(kErrorInvalidArgument, error.what());
  } catch (const std::bad_alloc&) {
    return status(kErrorFail, "out of memory");
  } catch (const std::exception& error) {
    return status(kErrorFail, error.what());
  } catch (...) {
    return status(kErrorFail, "unknown error");
  }
}

// A handle that is given back by `Release`.
template <class Handle, class Release>
class Owned {
 public:
  explicit Owned(const OrtApi* api) : api_(api) {}
  ~Owned() {
    if (handle_ != nullptr) Release::Of(api_)(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* get() const { return handle_; }
  Handle** out() { return &handle_; }

 private:
  const OrtApi* api_;
  Handle* handle_ = nullptr;
};

// Element type, shape and data of a tensor that someone else keeps alive.
struct TensorView {
  int element_type = 0;
  std::vector<int64_t> dims;
  const void* data = nullptr;

  // Throws when the product overflows.
  int64_t Count() const;
  const float* floats() const { return static_cast<const float*>(data); }
};

TensorView ViewTensor(const OrtApi* api, const OrtValue* value);
std::vector<int64_t> Dimensions(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info);
// "(1, 64, 56, 56)"
std::string ShapeText(const std::vector<int64_t>& dims);

// Memory from the session's allocator while a kernel computes.
class Scratch {
 public:
  Scratch(const OrtApi* api, const OrtKernelContext* context, size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }

 private:
  const OrtApi* api_;
  Owned<OrtAllocator, ReleaseAllocator> allocator_;
  void* data_ = nullptr;
};

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_ORT_HANDLES_H_
