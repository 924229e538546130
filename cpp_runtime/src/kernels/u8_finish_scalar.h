// What becomes of a sum of products of bytes, scalar: the meaning that the families on bytes share.
#ifndef LCNN_SRC_KERNELS_U8_FINISH_SCALAR_H_
#define LCNN_SRC_KERNELS_U8_FINISH_SCALAR_H_

#include <cstdint>

namespace {

// Of a filter; the residual's byte is at `place`. Sums may have wrapped around on the way.
template <class Task>
float Finished(const Task& t, uint32_t sum, int64_t filter, int64_t place) {
  float v = __builtin_fmaf(static_cast<float>(static_cast<int32_t>(sum)), t.scale[filter],
                           t.bias[filter]);
  if (t.residual != nullptr) {
    const int32_t r = t.residual[place] - t.residual_zero;
    v = __builtin_fmaf(static_cast<float>(r), t.residual_scale, v);
  }
  if (v < t.low) v = t.low;
  return v > t.high ? t.high : v;
}

// Adding 1.5 * 2^23 leaves no bit for a fraction: a value below 2^22 is rounded to the nearest
// integer.
template <class Task>
uint8_t AsByte(const Task& t, float v) {
  constexpr float kNoFraction = 0x1.8p23f;
  return static_cast<uint8_t>(static_cast<int32_t>((v + kNoFraction) - kNoFraction) + t.zero);
}

// The results of all pixels and filters, where `sum`(task, pixel, filter) adds the products up.
template <class T, class Task, class Sum, class Made>
void ForAll(const Task& t, const Sum& sum, const Made& made) {
  auto* const y = static_cast<T*>(t.y);
  for (int64_t p = 0; p < t.pixels; ++p) {
    for (int64_t f = 0; f < t.filters; ++f) {
      const int64_t place = t.y_offsets[p] + f;
      y[place] = made(t, Finished(t, sum(t, p, f), f, place));
    }
  }
}

template <class Task, class Sum>
void AllToBytes(const Task& t, const Sum& sum) {
  ForAll<uint8_t>(t, sum, AsByte<Task>);
}

template <class Task, class Sum>
void AllToFloats(const Task& t, const Sum& sum) {
  ForAll<float>(t, sum, [](const Task&, float v) { return v; });
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_U8_FINISH_SCALAR_H_
