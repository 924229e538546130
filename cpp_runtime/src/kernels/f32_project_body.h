// Stage 1 in terms of Vec: included by one file per instruction set, after its vec_*.h.
//
// A block of ROWS x VECTORS accumulators stays in registers while the channels stream by: each step
// loads VECTORS vectors of packed pixels and broadcasts ROWS dictionary values, for ROWS * VECTORS
// multiply-adds.
#ifndef LCNN_SRC_KERNELS_F32_PROJECT_BODY_H_
#define LCNN_SRC_KERNELS_F32_PROJECT_BODY_H_

#include "kernels/f32_project.h"
#include "kernels/unroll.h"

namespace {

using lcnn::kPanelRows;
using lcnn::LaneMap;

// Channels that are packed vector by vector: few enough that lines of X read by two vectors stay in
// the first-level cache, many enough that what depends on the map alone is done rarely.
constexpr int kPackChannels = 32;

// Writes one vector of `channels` channels: load(x) of each.
template <class Load>
inline void PackVector(const lcnn::PackTask& task, int channels, const float* x, float* packed,
                       const Load& load) {
  const int64_t plane = task.plane;
  const int64_t pitch = task.pitch;
  for (int i = 0; i < channels; ++i, x += plane, packed += pitch) {
    load(x, packed).Store(packed);
  }
}

inline void PackMap(const lcnn::PackTask& t, const LaneMap& map, int channels, const float* x,
                    float* packed) {
  const int count = map.count;
  const uint32_t mask = map.mask;
  if (map.indexed == lcnn::kAlternatePixels) {
    const int32_t* const triples = t.indices + map.base;
    for (int i = 0; i < triples[0]; ++i) {
      const int32_t* const run = triples + 1 + 3 * i;
      const int run_count = run[1];
      const auto run_mask = static_cast<uint32_t>(run[2]);
      const auto pixels = [&](const float* p) {
        return Vec::LoadAlternate(p, run_count).Expand(run_mask);
      };
      if (i == 0) {
        PackVector(t, channels, x + run[0], packed,
                   [&](const float* p, const float*) { return pixels(p); });
      } else {
        PackVector(t, channels, x + run[0], packed,
                   [&](const float* p, const float* sum) { return Vec::Load(sum) + pixels(p); });
      }
    }
  } else if (map.indexed) {
    const int32_t* const indices = t.indices + map.base;
    PackVector(t, channels, x, packed,
               [&](const float* p, const float*) { return Vec::Gather(p, indices, mask); });
  } else if (count == Vec::kLanes) {
    PackVector(t, channels, x + map.base, packed,
               [](const float* p, const float*) { return Vec::Load(p); });
  } else {
    PackVector(t, channels, x + map.base, packed,
               [&](const float* p, const float*) { return Vec::LoadFirst(p, count).Expand(mask); });
  }
}

void Pack(const lcnn::PackTask& task) {
  const lcnn::PackTask t = task;
  for (int begin = 0; begin < t.depth; begin += kPackChannels) {
    const int channels = t.depth - begin < kPackChannels ? t.depth - begin : kPackChannels;
    const float* const x = t.x + begin * t.plane;
    float* const packed = t.packed + begin * t.pitch;
    for (int v = 0; v < t.n_vectors; ++v) {
      PackMap(t, t.maps[v], channels, x, packed + v * Vec::kLanes);
    }
  }
}

inline Vec LoadWide(const float* p) { return Vec::Load(p); }
inline Vec LoadWide(const uint16_t* p) { return Vec::LoadHalves(p); }
inline Vec LoadWide(const int8_t* p) { return Vec::LoadBytes(p); }

template <class T>
void WidenAll(const T* values, int64_t count, float* floats) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) LoadWide(values + i).Store(floats + i);
  if (i == count) return;
  T rest[Vec::kLanes] = {};
  for (int l = 0; i + l < count; ++l) rest[l] = values[i + l];
  LoadWide(rest).StoreFirst(floats + i, static_cast<int>(count - i));
}

void Widen(const lcnn::PanelValues& values, int64_t count, float* floats) {
  values.type == lcnn::PanelType::kFloat16 ? WidenAll(values.halves(), count, floats)
                                           : WidenAll(values.bytes(), count, floats);
}

// Vector `index` of a panel of one pixel, and asks for what follows: this loop waits for memory.
template <class T>
inline Vec PanelVector(const T* panel, int64_t index) {
  constexpr int64_t kAhead = 2048;  // bytes
  const T* const p = panel + index * Vec::kLanes;
  __builtin_prefetch(p + kAhead / static_cast<int64_t>(sizeof(T)));
  return LoadWide(p);
}

// The channels from `begin` to `depth`, fewer than MAX.
template <int MAX, class T>
inline const float* PanelTail(const T* panel, int64_t begin, int64_t depth,
                              float (&buffer)[MAX * kPanelRows]) {
  const T* const tail = panel + begin * kPanelRows;
  if constexpr (sizeof(T) == sizeof(float)) {
    return tail;
  } else {
    WidenAll(tail, (depth - begin) * kPanelRows, buffer);
    return buffer;
  }
}

template <int ROWS, int VECTORS>
void ProjectBlock(const lcnn::ProjectTask& task, int row, int vector) {
  const lcnn::ProjectTask t = task;  // a local that no store through float* can change
  Vec acc[ROWS][VECTORS];
  float* const s = t.s + row * t.s_pitch + vector * Vec::kLanes;
  LCNN_UNROLL for (int r = 0; r < ROWS; ++r) {
    LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) acc[r][v] = Vec::Set(0);
  }
  const float* packed = t.packed + vector * Vec::kLanes;
  const float* panel = t.panel + row;
  const int step = t.n_vectors * Vec::kLanes;
  for (int i = 0; i < t.depth; ++i, packed += step, panel += kPanelRows) {
    Vec x[VECTORS];
    LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) x[v] = Vec::Load(packed + v * Vec::kLanes);
    LCNN_UNROLL for (int r = 0; r < ROWS; ++r) {
      const Vec d = Vec::Set(panel[r]);
      LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) acc[r][v] = MultiplyAdd(d, x[v], acc[r][v]);
    }
  }
  LCNN_UNROLL for (int r = 0; r < ROWS; ++r) {
    float* const out = s + r * t.s_pitch;
    if (t.accumulate) {
      LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) {
        acc[r][v] = acc[r][v] + Vec::Load(out + v * Vec::kLanes);
      }
    }
    LCNN_UNROLL for (int v = 0; v < VECTORS; ++v) acc[r][v].Store(out + v * Vec::kLanes);
  }
}

// Calls the block of exactly `rows` <= ROWS rows.
template <int ROWS, int VECTORS>
void ProjectRows(const lcnn::ProjectTask& t, int row, int rows, int vector) {
  if constexpr (ROWS > 1) {
    if (rows < ROWS) return ProjectRows<ROWS - 1, VECTORS>(t, row, rows, vector);
  }
  ProjectBlock<ROWS, VECTORS>(t, row, vector);
}

template <int ROWS, int VECTORS>
void ProjectVectors(const lcnn::ProjectTask& t, int vector) {
  for (; vector + VECTORS <= t.n_vectors; vector += VECTORS) {
    for (int row = 0; row < t.rows; row += ROWS) {
      ProjectRows<ROWS, VECTORS>(t, row, t.rows - row < ROWS ? t.rows - row : ROWS, vector);
    }
  }
  if constexpr (VECTORS > 1) ProjectVectors<ROWS, VECTORS - 1>(t, vector);
}

template <int ROWS, int VECTORS>
void Project(const lcnn::ProjectTask& t) {
  ProjectVectors<ROWS, VECTORS>(t, 0);
}

// Each instruction set has its own, because a panel is narrower than most vectors.
template <class T>
void ProjectPixelOf(const T* panel, const lcnn::ProjectPixelTask& t);

void ProjectPixel(const lcnn::ProjectPixelTask& t) {
  switch (t.panel.type) {
    case lcnn::PanelType::kFloat32:
      return ProjectPixelOf(t.panel.floats(), t);
    case lcnn::PanelType::kFloat16:
      return ProjectPixelOf(t.panel.halves(), t);
    case lcnn::PanelType::kInt8:
      return ProjectPixelOf(t.panel.bytes(), t);
  }
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_F32_PROJECT_BODY_H_
