// The output's shape at model load, so that ONNX Runtime can plan memory.
#ifndef LCNN_SRC_ORT_SHAPE_INFERENCE_H_
#define LCNN_SRC_ORT_SHAPE_INFERENCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "ort/ort_abi.h"

namespace lcnn::ort {

struct Dimension {
  int64_t value = -1;  // as in ONNX Runtime, -1: not known at load
  std::string name;    // of an unknown dimension; equal names promise equal values
  bool Unknown() const { return value < 0 && name.empty(); }
};

// Empty: not even the rank is known.
std::vector<Dimension> InputDimensions(const OrtApi* api, const OrtShapeInferContext* context,
                                       size_t input);

// Height and width after the window of the attributes.
std::vector<Dimension> WindowedPlane(const OrtApi* api, const OrtShapeInferContext* context,
                                     const Dimension& height, const Dimension& width);

// The shape and element type of Y; nothing when a dimension is unknown and has no name.
void SetOutput(const OrtApi* api, OrtShapeInferContext* context, const std::vector<Dimension>& y,
               int element_type);

// Y is float32 (N, channels, ...) where the attributes of window and pooling say how large. Sets
// nothing when a dimension is unknown and has no name. Throws std::exception.
void SetOutputShape(const OrtApi* api, OrtShapeInferContext* context,
                    const std::vector<Dimension>& x, const Dimension& channels);

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_SHAPE_INFERENCE_H_
