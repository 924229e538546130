// Products of bytes over lists, scalar: the meaning of the family, one position and filter at a
// time.
#include "kernels/u8_finish_scalar.h"
#include "kernels/u8_list.h"

namespace {

// Where a byte of a filter at a position lies.
int64_t BytePlace(const lcnn::ListTask& t, int64_t filter, int64_t position) {
  return (filter / lcnn::kQuad * t.pitch + position) * lcnn::kQuad + filter % lcnn::kQuad;
}

float Value(const lcnn::ListTask& t, const lcnn::ListEntry* entries, const int32_t* weights,
            int64_t count, int64_t filter, int64_t position) {
  auto sum = static_cast<uint32_t>(t.start[filter]);
  for (int64_t e = 0; e < count; ++e) {
    const uint8_t* const x = t.x + entries[e].quad * t.plane_bytes + t.tap_bytes[entries[e].tap] +
                             position * lcnn::kQuad;
    int8_t w[lcnn::kQuad];
    __builtin_memcpy(w, weights + e * t.share + filter % t.share, sizeof(w));
    for (int64_t i = 0; i < lcnn::kQuad; ++i) sum += static_cast<uint32_t>(x[i] * w[i]);
  }
  return Finished(t, sum, filter, BytePlace(t, filter, position));
}

template <class Store>
void ForAll(const lcnn::ListTask& t, const Store& store) {
  const lcnn::ListEntry* entries = t.entries;
  const int32_t* weights = t.weights;
  for (int64_t g = 0; g < t.groups; ++g) {
    for (int64_t filter = g * t.share; filter < (g + 1) * t.share; ++filter) {
      for (int64_t p = 0; p < t.vectors * lcnn::kListLanes; ++p) {
        store(filter, p, Value(t, entries, weights, t.counts[g], filter, p));
      }
    }
    entries += t.counts[g];
    weights += t.counts[g] * t.share;
  }
}

void ToBytes(const lcnn::ListTask& t) {
  auto* const y = static_cast<uint8_t*>(t.y);
  ForAll(t, [&](int64_t filter, int64_t p, float v) { y[BytePlace(t, filter, p)] = AsByte(t, v); });
}

void ToFloats(const lcnn::ListTask& t) {
  auto* const y = static_cast<float*>(t.y);
  ForAll(t, [&](int64_t filter, int64_t p, float v) { y[filter * t.pitch + p] = v; });
}

}  // namespace

namespace lcnn {
const ListKernels kListScalar = {{1, 1, 1}, 1, ToBytes, ToFloats};
}
