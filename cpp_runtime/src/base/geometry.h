// Arithmetic of convolution geometry, one axis at a time, and of sizes that must not overflow.
#ifndef LCNN_SRC_BASE_GEOMETRY_H_
#define LCNN_SRC_BASE_GEOMETRY_H_

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "lcnn/types.h"

namespace lcnn {

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Extents up to this: every product of two of them, and sums of a few such products, stay inside 64
// bits.
constexpr int64_t kMaxExtent = std::numeric_limits<int32_t>::max();

// Of a convolution: along one axis, and of both. Plans have a place for every tap.
constexpr int64_t kMaxKernel = 65535;
constexpr int64_t kMaxTaps = 1 << 20;

// These throw std::invalid_argument with the value and the rule.
void RequireRange(const std::string& name, int64_t value, int64_t low, int64_t high);
void RequireMultiple(const std::string& name, int64_t value, int64_t group);
// Of a convolution; `which` is "height" or "width".
void CheckAxis(const Axis& axis, const std::string& which);

// a * b of non-negative sizes. Throws std::invalid_argument when it exceeds `limit`.
inline int64_t CheckedMul(int64_t a, int64_t b, int64_t limit, const char* what) {
  if (a != 0 && b > limit / a) {
    throw std::invalid_argument(std::string(what) + " of " + std::to_string(a) + " x " +
                                std::to_string(b) + " elements exceeds the limit of " +
                                std::to_string(limit));
  }
  return a * b;
}

// How one axis of S is laid out. In padded coordinates tap t of output y reads index y * stride + t
// * dilation. Splitting S by index % stride (its phase) makes that a unit step: plane
// `tap_phase[t]`, index y + `tap_shift[t]`.
struct AxisLayout {
  struct Phase {
    int64_t remainder;  // padded index % stride
    int64_t begin;      // [begin, end) of the plane holds pixels, the rest is the zero border
    int64_t end;
  };
  int64_t stride;
  int64_t pad_begin;
  int64_t output;
  // Distance between two rows (or images) in S. The zeros after one row serve as zeros before the
  // next one as well, so this can be less than the output + shift elements a row spans.
  int64_t pitch;
  int64_t max_shift;
  std::vector<Phase> phases;  // only those that a tap reads
  std::vector<int64_t> tap_phase;
  std::vector<int64_t> tap_shift;

  // Input index of a plane's index; may lie in the padding, outside [0, input).
  int64_t InputIndex(const Phase& phase, int64_t index) const {
    return index * stride + phase.remainder - pad_begin;
  }
};

AxisLayout LayOutAxis(const Axis& axis, int64_t input, const char* axis_name);

}  // namespace lcnn

#endif  // LCNN_SRC_BASE_GEOMETRY_H_
