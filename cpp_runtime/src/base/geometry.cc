#include "base/geometry.h"

#include <algorithm>
#include <numeric>

namespace lcnn {

void RequireRange(const std::string& name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    throw std::invalid_argument(name + " is " + std::to_string(value) + ", outside [" +
                                std::to_string(low) + ", " + std::to_string(high) + "]");
  }
}

void RequireMultiple(const std::string& name, int64_t value, int64_t group) {
  if (value % group != 0) {
    throw std::invalid_argument(name + " is " + std::to_string(value) +
                                ", not a multiple of group " + std::to_string(group));
  }
}

void CheckAxis(const Axis& axis, const std::string& which) {
  RequireRange("kernel " + which, axis.kernel, 1, kMaxKernel);
  RequireRange("stride " + which, axis.stride, 1, kMaxExtent);
  RequireRange("dilation " + which, axis.dilation, 1, kMaxExtent);
  RequireRange("padding before " + which, axis.pad_begin, 0, kMaxExtent);
  RequireRange("padding after " + which, axis.pad_end, 0, kMaxExtent);
}

int64_t OutputExtent(const Axis& axis, int64_t input, const char* axis_name) {
  RequireRange("input " + std::string(axis_name), input, 0, kMaxExtent);
  const int64_t window = axis.dilation * (axis.kernel - 1) + 1;
  const int64_t padded = input + axis.pad_begin + axis.pad_end;
  if (padded < window) {
    throw std::invalid_argument("input " + std::string(axis_name) + " is " + std::to_string(input) +
                                ", with padding " + std::to_string(padded) +
                                ", smaller than the dilated kernel of " + std::to_string(window));
  }
  return (padded - window) / axis.stride + 1;
}

AxisLayout LayOutAxis(const Axis& axis, int64_t input, const char* axis_name) {
  AxisLayout layout{axis.stride, axis.pad_begin, OutputExtent(axis, input, axis_name), 0, 0, {}, {},
                    {}};
  // Remainders repeat after so many taps.
  const int64_t period = axis.stride / std::gcd(axis.stride, axis.dilation);
  for (int64_t tap = 0; tap < axis.kernel; ++tap) {
    if (tap < period) layout.phases.push_back({tap * axis.dilation % axis.stride, 0, 0});
    layout.tap_phase.push_back(tap % period);
    layout.tap_shift.push_back(tap * axis.dilation / axis.stride);
  }
  layout.max_shift = layout.tap_shift.back();
  const int64_t span = layout.output + layout.max_shift;
  layout.pitch = layout.output;
  for (auto& phase : layout.phases) {
    const int64_t border = axis.pad_begin - phase.remainder;  // padded index of the first pixel
    phase.begin = std::min(span, border > 0 ? CeilDiv(border, axis.stride) : 0);
    const int64_t pixels_end = border + input;
    phase.end = std::min(span, pixels_end > 0 ? CeilDiv(pixels_end, axis.stride) : 0);
    phase.end = std::max(phase.begin, phase.end);
    // The next row's first `begin` zeros may stand in for this row's last ones, and its pixels must
    // not.
    layout.pitch = std::max({layout.pitch, phase.end, span - phase.begin});
  }
  return layout;
}

}  // namespace lcnn
