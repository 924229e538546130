#include "base/transpose.h"

#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"

namespace lcnn {
namespace {

constexpr int64_t kWord = 4;

using Four = float __attribute__((vector_size(16)));
#ifdef __clang__
#define LCNN_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
using FourIndices = int32_t __attribute__((vector_size(16)));
#define LCNN_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, FourIndices{__VA_ARGS__})
#endif

void TransposeFour(const uint8_t* from, int64_t from_pitch, uint8_t* to, int64_t to_pitch) {
  Four in[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&in[i], from + i * from_pitch * kWord, sizeof(Four));
  const Four low01 = LCNN_SHUFFLE(in[0], in[1], 0, 4, 1, 5);
  const Four low23 = LCNN_SHUFFLE(in[2], in[3], 0, 4, 1, 5);
  const Four high01 = LCNN_SHUFFLE(in[0], in[1], 2, 6, 3, 7);
  const Four high23 = LCNN_SHUFFLE(in[2], in[3], 2, 6, 3, 7);
  const Four out[4] = {
      LCNN_SHUFFLE(low01, low23, 0, 1, 4, 5), LCNN_SHUFFLE(low01, low23, 2, 3, 6, 7),
      LCNN_SHUFFLE(high01, high23, 0, 1, 4, 5), LCNN_SHUFFLE(high01, high23, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_pitch * kWord, &out[i], sizeof(Four));
}
#undef LCNN_SHUFFLE

}  // namespace

// So many rows at a time as make a cache line: rows whose distance is a power of two share few
// sets.
void TransposeWords(const uint8_t* from, int64_t from_pitch, int64_t rows, int64_t columns,
                    uint8_t* to, int64_t to_pitch) {
  constexpr int64_t kBlock = kCacheLine / kWord;
  for (int64_t begin = 0; begin < rows; begin += kBlock) {
    const int64_t end = std::min(rows, begin + kBlock);
    const int64_t whole = begin + (end - begin) / 4 * 4;
    for (int64_t c = 0; c < columns; c += 4) {
      const int64_t last = std::min(columns, c + 4);
      const int64_t fours = last == c + 4 ? whole : begin;
      for (int64_t r = begin; r < fours; r += 4) {
        TransposeFour(from + (r * from_pitch + c) * kWord, from_pitch,
                      to + (c * to_pitch + r) * kWord, to_pitch);
      }
      for (int64_t column = c; column < last; ++column) {
        for (int64_t r = fours; r < end; ++r) {
          std::memcpy(to + (column * to_pitch + r) * kWord,
                      from + (r * from_pitch + column) * kWord, kWord);
        }
      }
    }
  }
}

void Transpose(const float* from, int64_t from_pitch, int64_t rows, int64_t columns, float* to,
               int64_t to_pitch) {
  TransposeWords(reinterpret_cast<const uint8_t*>(from), from_pitch, rows, columns,
                 reinterpret_cast<uint8_t*>(to), to_pitch);
}

}  // namespace lcnn
