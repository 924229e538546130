// What the constants of a layer must be, of either type.
#ifndef LCNN_SRC_NARROW_CONV_CHECKS_H_
#define LCNN_SRC_NARROW_CONV_CHECKS_H_

#include <string>

#include "lcnn/narrow_conv.h"

namespace lcnn {

// All throw std::invalid_argument with the value seen and the rule.
NarrowConvShape CheckedShape(const NarrowConvShape& shape, int64_t element_bytes);
void RequireFinite(const std::string& name, const float* values, int64_t count);

}  // namespace lcnn

#endif  // LCNN_SRC_NARROW_CONV_CHECKS_H_
