#include "ort/shape_inference.h"

#include <algorithm>

#include "lcnn/types.h"
#include "ort/ort_handles.h"

namespace lcnn::ort {
namespace {

std::vector<int64_t> IntsAttribute(const OrtApi* api, const OrtShapeInferContext* context,
                                   const char* name, size_t length) {
  const OrtOpAttr* attribute = nullptr;
  Call<ShapeInferGetAttribute>(api, context, name, &attribute);
  std::vector<int64_t> values(length);
  size_t bytes = 0;
  Call<ReadOpAttr>(api, attribute, kAttributeInts, static_cast<void*>(values.data()),
                   length * sizeof(int64_t), &bytes);
  if (bytes != length * sizeof(int64_t)) {
    throw std::invalid_argument("attribute " + std::string(name) + " has " +
                                std::to_string(bytes / sizeof(int64_t)) +
                                " elements; it must have " + std::to_string(length));
  }
  return values;
}

// Keeps what follows inside 64 bits.
bool AllFrom(int64_t low, const std::vector<int64_t>& values) {
  return std::all_of(values.begin(), values.end(),
                     [=](int64_t value) { return value >= low && value <= INT32_MAX; });
}

// A symbol stays when the convolution keeps the extent; otherwise the new name spells out the
// arithmetic, so that it is equal to another one only if the values are equal.
Dimension OutputDimension(const Dimension& input, const Axis& axis, const char* axis_name) {
  if (input.value >= 0) return {OutputExtent(axis, input.value, axis_name), ""};
  const int64_t shrink = axis.dilation * (axis.kernel - 1) - axis.pad_begin - axis.pad_end;
  if (input.name.empty() || (axis.stride == 1 && shrink == 0)) return input;
  return {-1, "floor((" + input.name + " - " + std::to_string(shrink + 1) + ")/" +
                  std::to_string(axis.stride) + ") + 1"};
}

// Height and width after a window whose attributes are given, or not known. Bad values are reported
// at creation of the kernel, with the node's name.
std::vector<Dimension> Windows(const std::vector<Dimension>& plane,
                               const std::vector<int64_t>& kernel,
                               const std::vector<int64_t>& strides,
                               const std::vector<int64_t>& dilations,
                               const std::vector<int64_t>& pads) {
  if (!AllFrom(1, kernel) || !AllFrom(1, strides) || !AllFrom(1, dilations) || !AllFrom(0, pads)) {
    return {{}, {}};
  }
  const Axis height = {kernel[0], strides[0], dilations[0], pads[0], pads[2]};
  const Axis width = {kernel[1], strides[1], dilations[1], pads[1], pads[3]};
  return {OutputDimension(plane[0], height, "height"), OutputDimension(plane[1], width, "width")};
}

bool HasAttribute(const OrtApi* api, const OrtShapeInferContext* context, const char* name) {
  const OrtOpAttr* attribute = nullptr;
  OrtStatus* const absent = ShapeInferGetAttribute::Of(api)(context, name, &attribute);
  if (absent == nullptr) return attribute != nullptr;
  ReleaseStatus::Of(api)(absent);
  return false;
}

}  // namespace

std::vector<Dimension> InputDimensions(const OrtApi* api, const OrtShapeInferContext* context,
                                       size_t input) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // the context keeps it
  Call<ShapeInferGetInputTypeShape>(api, context, input, &info);
  if (info == nullptr) return {};
  const std::vector<int64_t> values = Dimensions(api, info);
  std::vector<const char*> names(values.size(), nullptr);
  if (!names.empty()) Call<GetSymbolicDimensions>(api, info, names.data(), names.size());
  std::vector<Dimension> dims(values.size());
  for (size_t i = 0; i < dims.size(); ++i) {
    dims[i].value = values[i];
    if (values[i] < 0 && names[i] != nullptr) dims[i].name = names[i];
  }
  return dims;
}

std::vector<Dimension> WindowedPlane(const OrtApi* api, const OrtShapeInferContext* context,
                                     const Dimension& height, const Dimension& width) {
  const auto ints = [&](const char* name, size_t length) {
    return IntsAttribute(api, context, name, length);
  };
  return Windows({height, width}, ints("kernel_shape", 2), ints("strides", 2), ints("dilations", 2),
                 ints("pads", 4));
}

void SetOutput(const OrtApi* api, OrtShapeInferContext* context, const std::vector<Dimension>& y,
               int element_type) {
  std::vector<int64_t> values;
  std::vector<const char*> names;
  for (const Dimension& dimension : y) {
    if (dimension.Unknown()) return;
    values.push_back(dimension.value);
    names.push_back(dimension.name.c_str());
  }
  Owned<OrtTensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfo> info(api);
  Call<CreateTensorTypeAndShapeInfo>(api, info.out());
  Call<SetTensorElementType>(api, info.get(), element_type);
  Call<SetDimensions>(api, info.get(), static_cast<const int64_t*>(values.data()), values.size());
  Call<SetSymbolicDimensions>(api, info.get(), names.data(), names.size());
  const OrtTensorTypeAndShapeInfo* const result = info.get();
  Call<ShapeInferSetOutputTypeShape>(api, context, size_t{0}, result);
}

void SetOutputShape(const OrtApi* api, OrtShapeInferContext* context,
                    const std::vector<Dimension>& x, const Dimension& channels) {
  std::vector<Dimension> plane = WindowedPlane(api, context, x[2], x[3]);
  if (HasAttribute(api, context, "pool_kernel_shape")) {
    plane = Windows(plane, IntsAttribute(api, context, "pool_kernel_shape", 2),
                    IntsAttribute(api, context, "pool_strides", 2), {1, 1},
                    IntsAttribute(api, context, "pool_pads", 4));
  }
  SetOutput(api, context, {x[0], channels, plane[0], plane[1]}, kElementFloat);
}

}  // namespace lcnn::ort
