// Operators between convolutions of narrow numbers: to and from them, pooling, sums. Narrow numbers
// are dense NHWC.
#ifndef LCNN_NARROW_OPS_H_
#define LCNN_NARROW_OPS_H_

#include <cstdint>

#include "lcnn/max_pool.h"
#include "lcnn/narrow_conv.h"
#include "lcnn/types.h"

namespace lcnn {

// Extents are not negative; 0 makes an empty result.
struct ImageSize {
  int64_t batch;
  int64_t channels;
  int64_t height;
  int64_t width;
};

// Throws std::invalid_argument with `name` unless the scale is positive and finite.
void CheckScale(const char* name, float scale);

// Bytes from float32 (N, C, H, W).
void QuantizeNhwc(const ImageSize& size, const ByteScale& y_scale, Isa isa, const float* x,
                  uint8_t* y, const ParallelFor& parallel_for);
// float32 (N, C, H, W) from bytes.
void DequantizeNhwc(const ImageSize& size, const ByteScale& x_scale, Isa isa, const uint8_t* x,
                    float* y, const ParallelFor& parallel_for);

// Bytes from `count` numbers of bfloat16, as their bits, in the same order, and these from bytes.
void QuantizeBfloat16(const ByteScale& y_scale, Isa isa, int64_t count, const uint16_t* x,
                      uint8_t* y, const ParallelFor& parallel_for);
void DequantizeBfloat16(const ByteScale& x_scale, Isa isa, int64_t count, const uint8_t* x,
                        uint16_t* y, const ParallelFor& parallel_for);

// Of bytes; throws std::invalid_argument when the input is smaller than the window.
void NhwcMaxPool(const MaxPoolShape& shape, const ImageSize& size, Isa isa, const uint8_t* x,
                 uint8_t* y, const ParallelFor& parallel_for);

// y (N, 1, 1, C). Throws std::invalid_argument unless there are 1 to kMaxAveraged pixels.
constexpr int64_t kMaxAveraged = (int64_t{1} << 31) / 256 - 1;
void GlobalAveragePool(const ImageSize& size, const ByteScale& x_scale, const ByteScale& y_scale,
                       Isa isa, const uint8_t* x, uint8_t* y);

// The same of bfloat16, as its bits.
void ToBfloat16Nhwc(const ImageSize& size, Isa isa, const float* x, uint16_t* y,
                    const ParallelFor& parallel_for);
void FromBfloat16Nhwc(const ImageSize& size, Isa isa, const uint16_t* x, float* y,
                      const ParallelFor& parallel_for);
// Whether NaN or a number wins a window is not defined.
void Bfloat16NhwcMaxPool(const MaxPoolShape& shape, const ImageSize& size, Isa isa,
                         const uint16_t* x, uint16_t* y, const ParallelFor& parallel_for);

struct ByteSum {
  ByteScale a;
  ByteScale b;
  ByteScale y;
  float clip_min;
  float clip_max;
};

// Throws std::invalid_argument with the value seen and the rule.
void CheckByteSum(const ByteSum& sum);
void AddBytes(const ByteSum& sum, Isa isa, int64_t count, const uint8_t* a, const uint8_t* b,
              uint8_t* y, const ParallelFor& parallel_for);

}  // namespace lcnn

#endif  // LCNN_NARROW_OPS_H_
