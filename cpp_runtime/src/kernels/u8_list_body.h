// Products of bytes over lists in terms of Reg: included by one file per way to multiply, after
// u8_regs_*.h, structs Products with Add(sums, bytes, weights) and MostVectors(share), the vectors
// of the largest tile. Lanes are positions.
#ifndef LCNN_SRC_KERNELS_U8_LIST_BODY_H_
#define LCNN_SRC_KERNELS_U8_LIST_BODY_H_

#include "kernels/u8_list.h"
#include "kernels/unroll.h"

namespace {

constexpr int64_t kVectorBytes = lcnn::kListLanes * lcnn::kQuad;
constexpr int kRegs = kVectorBytes / kRegBytes;  // of a vector

// The results of one group of filters at the positions of a tile.
template <class Products, int SHARE, int REGS>
struct Group {
  Reg sums[SHARE][REGS];

  inline __attribute__((always_inline)) void Accumulate(const lcnn::ListTask& t, int64_t group,
                                                        const lcnn::ListEntry* entries,
                                                        const int32_t* weights, const uint8_t* x) {
    LCNN_UNROLL
    for (int f = 0; f < SHARE; ++f) {
      const Reg start = Set32(t.start[group * SHARE + f]);
      LCNN_UNROLL
      for (int r = 0; r < REGS; ++r) sums[f][r] = start;
    }
    const lcnn::ListEntry* const end = entries + t.counts[group];
    for (; entries != end; ++entries, weights += SHARE) {
      const uint8_t* const from = x + entries->quad * t.plane_bytes + t.tap_bytes[entries->tap];
      Reg weight[SHARE];
      LCNN_UNROLL
      for (int f = 0; f < SHARE; ++f) weight[f] = Set32(weights[f]);
      LCNN_UNROLL
      for (int r = 0; r < REGS; ++r) {
        const Reg quads = Load(from + r * kRegBytes);
        LCNN_UNROLL
        for (int f = 0; f < SHARE; ++f) sums[f][r] = Products::Add(sums[f][r], quads, weight[f]);
      }
    }
    // What the results need is not to be read before: there are no registers for it.
    __asm__ volatile("" : : : "memory");
  }

  // Calls store(filter, byte of its row, values) for positions whose rows begin at `first` bytes.
  template <class Store>
  inline __attribute__((always_inline)) void Finish(const lcnn::ListTask& task, int64_t group,
                                                    int64_t first, const Store& store) const {
    const lcnn::ListTask t = task;  // a local that no store can change
    LCNN_UNROLL
    for (int f = 0; f < SHARE; ++f) {
      const int64_t filter = group * SHARE + f;
      const RegFloat scale = SetFloats(t.scale[filter]), bias = SetFloats(t.bias[filter]);
      const int64_t row = filter / lcnn::kQuad * t.pitch * lcnn::kQuad;
      LCNN_UNROLL
      for (int r = 0; r < REGS; ++r) {
        const int64_t byte = first + r * kRegBytes;
        RegFloat value = MultiplyAdd(ToFloat(sums[f][r]), scale, bias);
        if (t.residual != nullptr) {
          const Reg bytes = ByteOf32(Load(t.residual + row + byte), filter % lcnn::kQuad);
          value = MultiplyAdd(ToFloat(Subtract32(bytes, t.residual_zero)),
                              SetFloats(t.residual_scale), value);
        }
        store(filter, byte, Clip(value, SetFloats(t.low), SetFloats(t.high)));
      }
    }
  }
};

// The first filter of a quad sets its bytes, the next ones add theirs.
struct Bytes {
  uint8_t* y;
  int64_t row_bytes;
  int32_t zero;

  explicit Bytes(const lcnn::ListTask& t)
      : y(static_cast<uint8_t*>(t.y)), row_bytes(t.pitch * lcnn::kQuad), zero(t.zero) {}
  inline __attribute__((always_inline)) void operator()(int64_t filter, int64_t byte,
                                                        RegFloat v) const {
    uint8_t* const to = y + filter / lcnn::kQuad * row_bytes + byte;
    const int64_t place = filter % lcnn::kQuad;
    Reg bytes = ToInt(v, zero);
    if (place > 0) bytes = Or(ShiftLeft32(bytes, 8 * place), Load(to));
    Store(to, bytes);
  }
};

struct Floats {
  float* y;
  int64_t pitch;

  explicit Floats(const lcnn::ListTask& t) : y(static_cast<float*>(t.y)), pitch(t.pitch) {}
  inline __attribute__((always_inline)) void operator()(int64_t filter, int64_t byte,
                                                        RegFloat v) const {
    StoreFloats(y + filter * pitch + byte / lcnn::kQuad, v);
  }
};

using TileFunction = void (*)(const lcnn::ListTask& task, int64_t first_vector);

template <class Products, class Store, int SHARE, int VECTORS>
void RunTile(const lcnn::ListTask& t, int64_t first) {
  const lcnn::ListEntry* entries = t.entries;
  const int32_t* weights = t.weights;
  for (int64_t g = 0; g < t.groups; ++g) {
    Group<Products, SHARE, VECTORS * kRegs> group;
    group.Accumulate(t, g, entries, weights, t.x + first * kVectorBytes);
    group.Finish(t, g, first * kVectorBytes, Store(t));
    entries += t.counts[g];
    weights += t.counts[g] * SHARE;
  }
}

constexpr int kMostVectors = 12;

// Larger tiles than the largest one are never run.
template <class Products, class Store, int SHARE, int VECTORS>
constexpr TileFunction Tile() {
  return RunTile<Products, Store, SHARE,
                 (VECTORS < MostVectors(SHARE) ? VECTORS : MostVectors(SHARE))>;
}

// Tiles are equally large but for one vector.
template <class Products, class Store, int SHARE>
void RunTilesOf(const lcnn::ListTask& t) {
  static constexpr TileFunction kTiles[kMostVectors] = {
      Tile<Products, Store, SHARE, 1>(),  Tile<Products, Store, SHARE, 2>(),
      Tile<Products, Store, SHARE, 3>(),  Tile<Products, Store, SHARE, 4>(),
      Tile<Products, Store, SHARE, 5>(),  Tile<Products, Store, SHARE, 6>(),
      Tile<Products, Store, SHARE, 7>(),  Tile<Products, Store, SHARE, 8>(),
      Tile<Products, Store, SHARE, 9>(),  Tile<Products, Store, SHARE, 10>(),
      Tile<Products, Store, SHARE, 11>(), Tile<Products, Store, SHARE, 12>()};
  constexpr int64_t kMost = MostVectors(SHARE);
  int64_t first = 0;
  for (int64_t tiles = (t.vectors + kMost - 1) / kMost; tiles > 0; --tiles) {
    const int64_t vectors = (t.vectors - first + tiles - 1) / tiles;
    kTiles[vectors - 1](t, first);
    first += vectors;
  }
}

template <class Products, class Store>
void Run(const lcnn::ListTask& t) {
  const auto run = t.share == 4   ? RunTilesOf<Products, Store, 4>
                   : t.share == 2 ? RunTilesOf<Products, Store, 2>
                                  : RunTilesOf<Products, Store, 1>;
  run(t);
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_U8_LIST_BODY_H_
