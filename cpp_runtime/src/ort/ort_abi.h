// The part of ONNX Runtime's C ABI that this library uses, written down from the published
// interface.
//
// OrtApi is a table of function pointers that only ever grows at its end; a function is known by
// its index. All indices below exist since ONNX Runtime 1.18, so one binary serves that and every
// later release. Asking for exactly that version of the table (kOrtApiVersion), and stating it in
// OrtCustomOp, is what older releases require: they reject versions newer than their own.
#ifndef LCNN_SRC_ORT_ORT_ABI_H_
#define LCNN_SRC_ORT_ORT_ABI_H_

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define LCNN_EXPORT __declspec(dllexport)
#define LCNN_ORT_CALL __stdcall
#else
#define LCNN_EXPORT __attribute__((visibility("default")))
#define LCNN_ORT_CALL
#endif

extern "C" {

// Opaque on this side.
struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtOpAttr;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtMemoryInfo;
struct OrtAllocator;

struct OrtApi {
  void (*functions[1])();  // at least 280 of them; see Slot
};

struct OrtApiBase {
  const OrtApi*(LCNN_ORT_CALL* GetApi)(uint32_t version);  // null when the version is unknown
  const char*(LCNN_ORT_CALL* GetVersionString)();
};

// Called back for the members of OrtCustomOp. Enumerations of the C interface are passed as int.
struct OrtCustomOp {
  uint32_t version;
  void*(LCNN_ORT_CALL* CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char*(LCNN_ORT_CALL* GetName)(const OrtCustomOp*);
  const char*(LCNN_ORT_CALL* GetExecutionProviderType)(const OrtCustomOp*);
  int(LCNN_ORT_CALL* GetInputType)(const OrtCustomOp*, size_t index);
  size_t(LCNN_ORT_CALL* GetInputTypeCount)(const OrtCustomOp*);
  int(LCNN_ORT_CALL* GetOutputType)(const OrtCustomOp*, size_t index);
  size_t(LCNN_ORT_CALL* GetOutputTypeCount)(const OrtCustomOp*);
  void(LCNN_ORT_CALL* KernelCompute)(void* kernel, OrtKernelContext*);
  void(LCNN_ORT_CALL* KernelDestroy)(void* kernel);
  int(LCNN_ORT_CALL* GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  int(LCNN_ORT_CALL* GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  int(LCNN_ORT_CALL* GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int(LCNN_ORT_CALL* GetVariadicInputMinArity)(const OrtCustomOp*);
  int(LCNN_ORT_CALL* GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int(LCNN_ORT_CALL* GetVariadicOutputMinArity)(const OrtCustomOp*);
  int(LCNN_ORT_CALL* GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus*(LCNN_ORT_CALL* CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*,
                                            void** kernel);
  OrtStatus*(LCNN_ORT_CALL* KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus*(LCNN_ORT_CALL* InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int(LCNN_ORT_CALL* GetStartVersion)(const OrtCustomOp*);
  int(LCNN_ORT_CALL* GetEndVersion)(const OrtCustomOp*);
  size_t(LCNN_ORT_CALL* GetMayInplace)(int** input, int** output);
  void(LCNN_ORT_CALL* ReleaseMayInplace)(int* input, int* output);
  size_t(LCNN_ORT_CALL* GetAliasMap)(int** input, int** output);
  void(LCNN_ORT_CALL* ReleaseAliasMap)(int* input, int* output);
};

}  // extern "C"

namespace lcnn::ort {

constexpr uint32_t kOrtApiVersion = 18;

// Enumerators of the C interface.
constexpr int kErrorFail = 1;
constexpr int kErrorInvalidArgument = 2;
constexpr int kElementUndefined = 0;  // of an op's input: any type
constexpr int kElementFloat = 1;
constexpr int kElementUint8 = 2;
constexpr int kElementInt8 = 3;
constexpr int kElementUint16 = 4;
constexpr int kElementFloat16 = 10;
constexpr int kElementBfloat16 = 16;
constexpr int kInputRequired = 0;
constexpr int kInputOptional = 1;
constexpr int kMemoryDefault = 0;
constexpr int kDeviceAllocator = 0;
constexpr int kArenaAllocator = 1;
constexpr int kAttributeInt = 1;
constexpr int kAttributeInts = 2;

using Status = OrtStatus*;

// A function of the table: its index and its type.
template <size_t INDEX, class Function>
struct Slot {
  static auto Of(const OrtApi* api) {
    return reinterpret_cast<Function*>((&api->functions[0])[INDEX]);
  }
};

// Releasing functions return nothing, the others a status that is null on success and owned by the
// caller.
// clang-format off
using CreateStatus = Slot<0, Status(int code, const char* message)>;
using GetErrorMessage = Slot<2, const char*(const OrtStatus*)>;
using CreateCustomOpDomain = Slot<26, Status(const char* domain, OrtCustomOpDomain**)>;
using CustomOpDomainAdd = Slot<27, Status(OrtCustomOpDomain*, const OrtCustomOp*)>;
using AddCustomOpDomain = Slot<28, Status(OrtSessionOptions*, OrtCustomOpDomain*)>;
using GetTensorMutableData = Slot<51, Status(OrtValue*, void**)>;
using CreateTensorTypeAndShapeInfo = Slot<57, Status(OrtTensorTypeAndShapeInfo**)>;
using SetTensorElementType = Slot<58, Status(OrtTensorTypeAndShapeInfo*, int type)>;
using SetDimensions = Slot<59, Status(OrtTensorTypeAndShapeInfo*, const int64_t*, size_t)>;
using GetTensorElementType = Slot<60, Status(const OrtTensorTypeAndShapeInfo*, int*)>;
using GetDimensionsCount = Slot<61, Status(const OrtTensorTypeAndShapeInfo*, size_t*)>;
using GetDimensions = Slot<62, Status(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)>;
using GetSymbolicDimensions = Slot<63, Status(const OrtTensorTypeAndShapeInfo*, const char**, size_t)>;
using GetTensorTypeAndShape = Slot<65, Status(const OrtValue*, OrtTensorTypeAndShapeInfo**)>;
using CreateCpuMemoryInfo = Slot<69, Status(int allocator, int memory, OrtMemoryInfo**)>;
using AllocatorAlloc = Slot<75, Status(OrtAllocator*, size_t, void**)>;
using AllocatorFree = Slot<76, Status(OrtAllocator*, void*)>;
using KernelInfoGetAttributeFloat = Slot<85, Status(const OrtKernelInfo*, const char*, float*)>;
using KernelInfoGetAttributeInt64 = Slot<86, Status(const OrtKernelInfo*, const char*, int64_t*)>;
using KernelContextGetInputCount = Slot<88, Status(const OrtKernelContext*, size_t*)>;
using KernelContextGetInput = Slot<90, Status(const OrtKernelContext*, size_t, const OrtValue**)>;
using KernelContextGetOutput = Slot<91, Status(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>;
using ReleaseStatus = Slot<93, void(OrtStatus*)>;
using ReleaseMemoryInfo = Slot<94, void(OrtMemoryInfo*)>;
using ReleaseTensorTypeAndShapeInfo = Slot<99, void(OrtTensorTypeAndShapeInfo*)>;
using ReleaseCustomOpDomain = Slot<101, void(OrtCustomOpDomain*)>;
using ReleaseAllocator = Slot<132, void(OrtAllocator*)>;
using KernelInfoGetAttributeInt64s = Slot<163, Status(const OrtKernelInfo*, const char*, int64_t*, size_t*)>;
using KernelInfoGetInputCount = Slot<230, Status(const OrtKernelInfo*, size_t*)>;
using KernelInfoGetNodeName = Slot<244, Status(const OrtKernelInfo*, char*, size_t*)>;
using KernelInfoGetConstantInput = Slot<249, Status(const OrtKernelInfo*, size_t, int*, const OrtValue**)>;
using KernelContextGetAllocator = Slot<253, Status(const OrtKernelContext*, const OrtMemoryInfo*, OrtAllocator**)>;
using ShapeInferGetInputCount = Slot<267, Status(const OrtShapeInferContext*, size_t*)>;
using ShapeInferGetInputTypeShape = Slot<268, Status(const OrtShapeInferContext*, size_t, OrtTensorTypeAndShapeInfo**)>;
using ShapeInferGetAttribute = Slot<269, Status(const OrtShapeInferContext*, const char*, const OrtOpAttr**)>;
using ShapeInferSetOutputTypeShape = Slot<270, Status(const OrtShapeInferContext*, size_t, const OrtTensorTypeAndShapeInfo*)>;
using SetSymbolicDimensions = Slot<271, Status(OrtTensorTypeAndShapeInfo*, const char**, size_t)>;
using ReadOpAttr = Slot<272, Status(const OrtOpAttr*, int type, void*, size_t bytes, size_t* bytes_needed)>;
using KernelContextParallelFor = Slot<274, Status(const OrtKernelContext*, void (*)(void*, size_t), size_t total, size_t batches, void*)>;
// clang-format on

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_ORT_ABI_H_
