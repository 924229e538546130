// The output's shape at model load, so that ONNX Runtime can plan memory.
#ifndef LCNN_SRC_ORT_SHAPE_INFERENCE_H_
#define LCNN_SRC_ORT_SHAPE_INFERENCE_H_

#include "ort/ort_abi.h"

namespace lcnn::ort {

// Each sets nothing when a dimension is unknown and has no name, and throws std::exception.
void InferConvShape(const OrtApi* api, OrtShapeInferContext* context);
void InferPoolShape(const OrtApi* api, OrtShapeInferContext* context);

}  // namespace lcnn::ort

#endif  // LCNN_SRC_ORT_SHAPE_INFERENCE_H_
