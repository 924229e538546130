// Products of bfloat16 in terms of Reg: included by one file per way to multiply, after
// u8_regs_*.h, its own Pixel and Weights, quads with Load from bytes, AddProducts(sums, pixel,
// weights), kTileBlocks, the blocks that are computed together, and MostPixels(blocks).
#ifndef LCNN_SRC_KERNELS_BF16_DOT_BODY_H_
#define LCNN_SRC_KERNELS_BF16_DOT_BODY_H_

#include "kernels/bf16_dot.h"
#include "kernels/u8_dot_tiles.h"
#include "kernels/unroll.h"

namespace {

constexpr int kLanes = kRegBytes / 4;
constexpr int kBlockRegs = 16 / kLanes;
constexpr int64_t kBlockBytes = 64;

// Some pixels of the blocks from `block` on.
template <int PIXELS, int REGS>
struct HalfTile {
  RegFloat sums[PIXELS][REGS];

  inline __attribute__((always_inline)) void Accumulate(const lcnn::DotTask& t, int64_t first,
                                                        int64_t block) {
    LCNN_UNROLL
    for (int r = 0; r < REGS; ++r) {
      const RegFloat start = FromBits(Load(t.start + block * 16 + r * kLanes));
      LCNN_UNROLL
      for (int p = 0; p < PIXELS; ++p) sums[p][r] = start;
    }
    const int8_t* w = t.weights + block * kBlockBytes;
    const int64_t step = t.blocks * kBlockBytes;
    for (const lcnn::DotSpan *span = t.spans, *end = span + t.n_spans; span != end; ++span) {
      const uint8_t* const from = t.x + span->row * t.row_bytes + span->column;
      const uint8_t* x[PIXELS];
      LCNN_UNROLL
      for (int p = 0; p < PIXELS; ++p) x[p] = from + t.x_offsets[first + p];
      int64_t i = 0;
      const int64_t bytes = span->quads * lcnn::kQuad;
      do {
        Weights weights[REGS];
        LCNN_UNROLL
        for (int r = 0; r < REGS; ++r) weights[r] = Weights::Load(w + r * kRegBytes);
        w += step;
        LCNN_UNROLL
        for (int p = 0; p < PIXELS; ++p) {
          const Pixel pixel = Pixel::Load(x[p] + i);
          LCNN_UNROLL
          for (int r = 0; r < REGS; ++r) sums[p][r] = AddProducts(sums[p][r], pixel, weights[r]);
        }
        i += lcnn::kQuad;
      } while (i < bytes);
    }
    // What the results need is not to be read before: there are no registers for it.
    __asm__ volatile("" : : : "memory");
  }

  // Calls store(pixel's place, filter, filters that exist, values) for each pixel and register.
  template <class Store>
  inline __attribute__((always_inline)) void Finish(const lcnn::DotTask& task, int64_t first,
                                                    int64_t block, const Store& store) const {
    const lcnn::DotTask t = task;  // a local that no store can change
    LCNN_UNROLL
    for (int r = 0; r < REGS; ++r) {
      const int64_t filter = block * 16 + r * kLanes;
      const int64_t left = t.filters - filter;
      if (left <= 0) return;
      const auto count = static_cast<size_t>(left < kLanes ? left : kLanes);
      LCNN_UNROLL
      for (int p = 0; p < PIXELS; ++p) {
        const int64_t place = t.y_offsets[first + p];
        RegFloat v = sums[p][r];
        if (t.residual != nullptr) v = Sum(v, LoadHalves(t.residual + place + filter * 2, count));
        store(place, filter, count, Clip(v, SetFloats(t.low), SetFloats(t.high)));
      }
    }
  }

  static RegFloat Sum(RegFloat a, RegFloat b) { return MultiplyAdd(b, SetFloats(1), a); }
  static RegFloat LoadHalves(const uint8_t* p, size_t count) {
    uint16_t halves[kLanes] = {};
    if (count < kLanes) {
      __builtin_memcpy(halves, p, count * 2);
      p = reinterpret_cast<const uint8_t*>(halves);
    }
    return FromBits(Left32<16>(Load16To32(p)));
  }
};

struct Halves {
  uint8_t* y;

  explicit Halves(const lcnn::DotTask& t) : y(static_cast<uint8_t*>(t.y)) {}
  inline __attribute__((always_inline)) void operator()(int64_t place, int64_t filter, size_t count,
                                                        RegFloat v) const {
    const Reg bits = Bits(v);
    const Reg odd = And(Right32<16>(bits), Set32(1));
    const Reg rounded = Add32(Add32(bits, Set32(0x7fff)), odd);
    const Reg halves = Right32<16>(WhereNan(v, Or(bits, Set32(0x400000)), rounded));
    uint8_t* const to = y + place + filter * 2;
    if (count == kLanes) {
      StoreLow16(to, halves);
      return;
    }
    uint16_t all[kLanes];
    StoreLow16(all, halves);
    __builtin_memcpy(to, all, count * 2);
  }
};

struct Floats {
  float* y;

  explicit Floats(const lcnn::DotTask& t) : y(static_cast<float*>(t.y)) {}
  inline __attribute__((always_inline)) void operator()(int64_t place, int64_t filter, size_t count,
                                                        RegFloat v) const {
    if (count == kLanes) {
      StoreFloats(y + place + filter, v);
      return;
    }
    float all[kLanes];
    StoreFloats(all, v);
    __builtin_memcpy(y + place + filter, all, count * sizeof(float));
  }
};

// Larger tiles than kMost are never run: they are the largest one.
template <class Store, int PIXELS, int BLOCKS>
struct StoredTile {
  static constexpr int kBlocks = BLOCKS < kTileBlocks ? BLOCKS : kTileBlocks;
  static constexpr int kMost = MostPixels(kBlocks);

  static void Run(const lcnn::DotTask& t, int64_t first) {
    for (int64_t block = 0; block < BLOCKS; block += kBlocks) {
      HalfTile<(PIXELS < kMost ? PIXELS : kMost), kBlocks * kBlockRegs> tile;
      tile.Accumulate(t, first, block);
      tile.Finish(t, first, block, Store(t));
    }
  }
};

template <int PIXELS, int BLOCKS>
using HalvesTile = StoredTile<Halves, PIXELS, BLOCKS>;
template <int PIXELS, int BLOCKS>
using FloatsTile = StoredTile<Floats, PIXELS, BLOCKS>;

}  // namespace

#endif  // LCNN_SRC_KERNELS_BF16_DOT_BODY_H_
