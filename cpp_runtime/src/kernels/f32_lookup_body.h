// Stage 2 in terms of Vec: included by one file per instruction set, after its vec_*.h.
//
// A tile of VECTORS vectors of one output plane stays in registers while the filter's list is
// walked: each entry is one broadcast coefficient and VECTORS multiply-adds with operands straight
// from S. There is one load per multiply-add, so loads are the bound. A short tile has too few
// independent sums to hide the latency of a multiply-add and splits its list over CHAINS of them.
#ifndef LCNN_SRC_KERNELS_F32_LOOKUP_BODY_H_
#define LCNN_SRC_KERNELS_F32_LOOKUP_BODY_H_

#include "kernels/f32_lookup.h"
#include "kernels/unroll.h"

namespace {

using lcnn::LaneMap;
using lcnn::LookupTask;

// A NaN stays, and minus infinity becomes one.
inline Vec HardSwish(Vec a) {
  const Vec gate = MultiplyAdd(a, Vec::Set(1.0f / 6), Vec::Set(0.5f));
  return MultiplyAdd(a, Clip(gate, Vec::Set(0), Vec::Set(1)), Vec::Set(0));
}

template <bool RESIDUAL, bool HARD_SWISH = false>
inline void StorePixels(const LookupTask& t, Vec acc, const LaneMap& map, int64_t plane_offset,
                        Vec low, Vec high) {
  const auto activate = [&](Vec sum) { return HARD_SWISH ? HardSwish(sum) : Clip(sum, low, high); };
  float* const y = t.y + plane_offset;
  [[maybe_unused]] const float* const residual = RESIDUAL ? t.residual + plane_offset : nullptr;
  if (map.indexed) {
    const int32_t* const indices = t.indices + map.base;
    if constexpr (RESIDUAL) acc = acc + Vec::Gather(residual, indices, map.mask);
    float lanes[Vec::kLanes];
    activate(acc).Store(lanes);
    for (int l = 0; l < Vec::kLanes; ++l) {
      if (map.mask >> l & 1) y[indices[l]] = lanes[l];
    }
  } else if (map.count == Vec::kLanes) {
    if constexpr (RESIDUAL) acc = acc + Vec::Load(residual + map.base);
    activate(acc).Store(y + map.base);
  } else {
    acc = acc.Compress(map.mask);
    if constexpr (RESIDUAL) acc = acc + Vec::LoadFirst(residual + map.base, map.count);
    activate(acc).StoreFirst(y + map.base, map.count);
  }
}

// From sums in memory and not inlined: as a branch at each store it took registers from the sums
// even where it was not used (AVX-512, clipped lists of 8 filters: 0.091 ms > 0.125 ms).
template <bool RESIDUAL>
__attribute__((noinline)) void StoreHardSwish(const LookupTask& t, int64_t o, const float* sums) {
  const Vec unused = Vec::Set(0);
  for (int v = 0; v < t.n_vectors; ++v) {
    const Vec sum = Vec::Load(sums + v * Vec::kLanes);
    StorePixels<RESIDUAL, true>(t, sum, t.maps[v], o * t.plane, unused, unused);
  }
}

template <int VECTORS>
inline void AddEntry(const LookupTask& t, int32_t entry, Vec (&acc)[VECTORS]) {
  const float* const s = t.s + t.offsets[entry];
  const Vec c = Vec::Set(t.coefficients[entry]);
  LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
    acc[v] = MultiplyAdd(c, Vec::Load(s + v * Vec::kLanes), acc[v]);
  }
}

template <int VECTORS, bool RESIDUAL>
void LookupTile(const LookupTask& task) {
  const LookupTask t = task;  // a local that no store through float* can change
  constexpr int CHAINS = VECTORS <= 2 ? 4 : VECTORS <= 4 ? 2 : 1;
  const Vec low = Vec::Set(t.clip_min);
  const Vec high = Vec::Set(t.clip_max);
  for (int64_t o = t.filter_begin; o < t.filter_end; ++o) {
    float buffer[VECTORS * Vec::kLanes];
    float* const sums =
        t.sums == nullptr ? buffer : t.sums + (o - t.filter_begin) * VECTORS * Vec::kLanes;
    Vec acc[CHAINS][VECTORS];
    LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
      acc[0][v] = t.first ? Vec::Set(t.bias[o] + t.constant) : Vec::Load(sums + v * Vec::kLanes);
      LCNN_UNROLL for (int c = 1; c < CHAINS; ++c) acc[c][v] = Vec::Set(0);
    }
    int32_t entry = t.entry_begin[o];
    const int32_t end = t.entry_begin[o + 1];
    for (; entry + CHAINS <= end; entry += CHAINS) {
      LCNN_UNROLL for (int c = 0; c < CHAINS; ++c) AddEntry(t, entry + c, acc[c]);
    }
    for (; entry < end; ++entry) AddEntry(t, entry, acc[0]);
    LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
      LCNN_UNROLL for (int c = 1; c < CHAINS; ++c) acc[0][v] = acc[0][v] + acc[c][v];
      if (t.last && !t.hard_swish) {
        StorePixels<RESIDUAL>(t, acc[0][v], t.maps[v], o * t.plane, low, high);
      } else {
        acc[0][v].Store(sums + v * Vec::kLanes);
      }
    }
    if (t.last && t.hard_swish) StoreHardSwish<RESIDUAL>(task, o, sums);
  }
}

// A tile of one pixel, in lane 0: the lanes take entries instead of pixels.
template <bool RESIDUAL>
void LookupPixel(const LookupTask& task) {
  const LookupTask t = task;
  const Vec low = Vec::Set(t.clip_min);
  const Vec high = Vec::Set(t.clip_max);
  for (int64_t o = t.filter_begin; o < t.filter_end; ++o) {
    Vec acc = Vec::Set(0);
    int32_t entry = t.entry_begin[o];
    const int32_t end = t.entry_begin[o + 1];
    for (; entry + Vec::kLanes <= end; entry += Vec::kLanes) {
      const Vec s = Vec::Gather(t.s, t.offsets + entry, (1u << Vec::kLanes) - 1u);
      acc = MultiplyAdd(Vec::Load(t.coefficients + entry), s, acc);
    }
    if (entry < end) {
      const int rest = end - entry;
      const Vec s = Vec::Gather(t.s, t.offsets + entry, (1u << rest) - 1u);
      acc = MultiplyAdd(Vec::LoadFirst(t.coefficients + entry, rest), s, acc);
    }
    float* const sum = t.sums == nullptr ? nullptr : t.sums + (o - t.filter_begin) * Vec::kLanes;
    const float start = t.first ? t.bias[o] + t.constant : *sum;
    Vec value = Vec::Set(start + acc.Sum());
    if (!t.last) {
      value.StoreFirst(sum, 1);
      continue;
    }
    const int64_t at = o * t.plane + t.maps[0].base;
    if constexpr (RESIDUAL) value = value + Vec::LoadFirst(t.residual + at, 1);
    value = t.hard_swish ? HardSwish(value) : Clip(value, low, high);
    value.StoreFirst(t.y + at, 1);
  }
}

// FILTERS of the SHARED ones of a list, from filter `o` on: FILTERS multiply-adds for each load
// from S, so that arithmetic is the bound.
template <int SHARED, int FILTERS, int VECTORS, bool RESIDUAL>
void SharedTile(const LookupTask& task, int64_t o) {
  const LookupTask t = task;
  const int64_t list = o / SHARED;
  Vec acc[FILTERS][VECTORS];
  LCNN_UNROLL for (int f = 0; f < FILTERS; ++f) {
    const Vec start = Vec::Set(o + f < t.filter_end ? t.bias[o + f] + t.constant : 0);
    LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) acc[f][v] = start;
  }
  const float* coefficients =
      t.coefficients + o % SHARED + static_cast<int64_t>(t.entry_begin[list]) * SHARED;
  const int32_t* const end = t.offsets + t.entry_begin[list + 1];
  for (const int32_t* offset = t.offsets + t.entry_begin[list]; offset < end; ++offset) {
    Vec s[VECTORS];
    LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
      s[v] = Vec::Load(t.s + *offset + v * Vec::kLanes);
    }
    LCNN_UNROLL for (int f = 0; f < FILTERS; ++f) {
      const Vec c = Vec::Set(coefficients[f]);
      LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) acc[f][v] = MultiplyAdd(c, s[v], acc[f][v]);
    }
    coefficients += SHARED;
  }
  if (t.hard_swish) {
    float sums[FILTERS][VECTORS * Vec::kLanes];
    LCNN_UNROLL for (int f = 0; f < FILTERS; ++f) {
      LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) acc[f][v].Store(sums[f] + v * Vec::kLanes);
    }
    for (int f = 0; f < FILTERS && o + f < t.filter_end; ++f) {
      StoreHardSwish<RESIDUAL>(task, o + f, sums[f]);
    }
    return;
  }
  const Vec low = Vec::Set(t.clip_min);
  const Vec high = Vec::Set(t.clip_max);
  LCNN_UNROLL for (int f = 0; f < FILTERS; ++f) {
    if (o + f >= t.filter_end) return;
    LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
      StorePixels<RESIDUAL>(t, acc[f][v], t.maps[v], (o + f) * t.plane, low, high);
    }
  }
}

// Calls the tile of exactly t.n_vectors <= VECTORS vectors.
template <int SHARED, int FILTERS, int VECTORS>
void LookupShared(const LookupTask& t) {
  static_assert(SHARED % FILTERS == 0);
  if constexpr (VECTORS > 1) {
    if (t.n_vectors < VECTORS) return LookupShared<SHARED, FILTERS, VECTORS - 1>(t);
  }
  for (int64_t o = t.filter_begin; o < t.filter_end; o += FILTERS) {
    t.residual != nullptr ? SharedTile<SHARED, FILTERS, VECTORS, true>(t, o)
                          : SharedTile<SHARED, FILTERS, VECTORS, false>(t, o);
  }
}

// Shorter lists than this are not worth the sum over lanes.
constexpr int64_t kMinPixelEntries = 8;

inline bool IsPixel(const LookupTask& t) {
  const int64_t entries = t.entry_begin[t.filter_end] - t.entry_begin[t.filter_begin];
  return t.n_vectors == 1 && t.maps[0].mask == 1 && !t.maps[0].indexed &&
         entries >= kMinPixelEntries * (t.filter_end - t.filter_begin);
}

// Calls the tile of exactly t.n_vectors <= VECTORS vectors.
template <int VECTORS>
void Lookup(const LookupTask& t) {
  if constexpr (VECTORS > 1) {
    if (t.n_vectors < VECTORS) return Lookup<VECTORS - 1>(t);
  } else if (IsPixel(t)) {
    return t.residual != nullptr ? LookupPixel<true>(t) : LookupPixel<false>(t);
  }
  t.residual != nullptr ? LookupTile<VECTORS, true>(t) : LookupTile<VECTORS, false>(t);
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_F32_LOOKUP_BODY_H_
