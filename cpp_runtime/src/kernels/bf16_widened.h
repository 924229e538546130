// Products of bfloat16 where there are none of the processor's own: in float32, which holds each of
// the factors. In terms of Reg, which the including file has defined.
#ifndef LCNN_SRC_KERNELS_BF16_WIDENED_H_
#define LCNN_SRC_KERNELS_BF16_WIDENED_H_

namespace {

inline Reg LoadQuad(const uint8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof(quad));
  return Set32(quad);
}

// The lower and the upper number of each quad, as float32.
struct Widened {
  RegFloat lower;
  RegFloat upper;
  static Widened Of(Reg quads) {
    return {FromBits(Left32<16>(quads)), FromBits(And(quads, Set32(-0x10000)))};
  }
};

struct Pixel : Widened {
  static Pixel Load(const uint8_t* p) { return {Of(LoadQuad(p))}; }
};
struct Weights : Widened {
  static Weights Load(const int8_t* p) { return {Of(::Load(p))}; }
};
inline RegFloat AddProducts(RegFloat sums, const Pixel& x, const Weights& w) {
  return MultiplyAdd(x.upper, w.upper, MultiplyAdd(x.lower, w.lower, sums));
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_BF16_WIDENED_H_
