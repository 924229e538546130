// Planes of narrow numbers to pixels with their channels side by side and back, in blocks of as
// many channels as fit into 16 bytes. T has one or two bytes.
#ifndef LCNN_SRC_KERNELS_CHANNEL_BLOCKS_H_
#define LCNN_SRC_KERNELS_CHANNEL_BLOCKS_H_

#include <cstdint>
#include <cstring>

#ifdef __clang__
#define LCNN_SHUFFLE(Row, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LCNN_SHUFFLE(Row, a, b, ...) __builtin_shuffle(a, b, Row{__VA_ARGS__})
#endif

namespace {

// Pixels at a time, of which a row of each channel is in the first-level cache.
constexpr int64_t kPixels = 64;
template <typename T>
constexpr int64_t kChannels = 16 / sizeof(T);

typedef uint8_t ByteRow __attribute__((vector_size(16)));
typedef uint16_t HalfRow __attribute__((vector_size(16)));
template <typename T>
struct RowOf;
template <>
struct RowOf<uint8_t> {
  using Row = ByteRow;
};
template <>
struct RowOf<uint16_t> {
  using Row = HalfRow;
};

inline ByteRow Low(ByteRow a, ByteRow b) {
  return LCNN_SHUFFLE(ByteRow, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline ByteRow High(ByteRow a, ByteRow b) {
  return LCNN_SHUFFLE(ByteRow, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline HalfRow Low(HalfRow a, HalfRow b) {
  return LCNN_SHUFFLE(HalfRow, a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
inline HalfRow High(HalfRow a, HalfRow b) {
  return LCNN_SHUFFLE(HalfRow, a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

// Each step is a perfect shuffle of the block, which doubles the index of a number modulo their
// count less one: half the bits of an index later, rows and columns have changed places.
template <typename Row, int64_t n>
inline void Transposed(Row (&rows)[n]) {
  for (int64_t step = 1; step < n; step *= 2) {
    Row next[n];
    for (int64_t i = 0; i < n / 2; ++i) {
      next[2 * i] = Low(rows[i], rows[i + n / 2]);
      next[2 * i + 1] = High(rows[i], rows[i + n / 2]);
    }
    for (int64_t i = 0; i < n; ++i) rows[i] = next[i];
  }
}

// The same for the first four rows, of which the others are not read: pixel i of 16 is number i of
// the four bytes each in the result.
inline void TransposedFour(ByteRow (&rows)[16]) {
  const ByteRow even[] = {Low(rows[0], rows[2]), High(rows[0], rows[2])};
  const ByteRow odd[] = {Low(rows[1], rows[3]), High(rows[1], rows[3])};
  for (int64_t i = 0; i < 2; ++i) {
    rows[2 * i] = Low(even[i], odd[i]);
    rows[2 * i + 1] = High(even[i], odd[i]);
  }
}

// The first channel of the block after that from `c` on; the last block may overlap the one before.
template <typename T>
inline int64_t NextBlock(int64_t c, int64_t channels) {
  constexpr int64_t n = kChannels<T>;
  return c + n < channels && c + 2 * n > channels ? channels - n : c + n;
}

// y[i * channels + c] = tile[c][i] for `count` pixels and the channels of a block, at most
// `channels`. There are `room` pixels from y on; where a pixel has fewer numbers than a block, the
// next ones are written over and must be written later.
template <typename T>
inline void JoinChannels(const T (&tile)[kChannels<T>][kPixels], int64_t count, int64_t channels,
                         int64_t room, T* y) {
  constexpr int64_t n = kChannels<T>;
  for (int64_t p = 0; p < count; p += n) {
    typename RowOf<T>::Row rows[n];
    for (int64_t c = 0; c < n; ++c) std::memcpy(&rows[c], &tile[c][p], 16);
    const int64_t here = count - p < n ? count - p : n;
    if constexpr (sizeof(T) == 1) {
      if (channels <= 4) {  // the usual images
        TransposedFour(rows);
        for (int64_t i = 0; i < here; ++i) {
          const bool whole = (room - p - i) * channels >= 4;
          std::memcpy(y + (p + i) * channels, reinterpret_cast<const T*>(rows) + 4 * i,
                      whole ? 4 : static_cast<size_t>(channels));
        }
        continue;
      }
    }
    Transposed(rows);
    for (int64_t i = 0; i < here; ++i) {
      const bool whole = channels >= n || (room - p - i) * channels >= n;
      std::memcpy(y + (p + i) * channels, &rows[i],
                  whole ? 16 : static_cast<size_t>(channels) * sizeof(T));
    }
  }
}

// The reverse.
template <typename T>
inline void SplitChannels(const T* x, int64_t count, int64_t channels,
                          T (&tile)[kChannels<T>][kPixels]) {
  constexpr int64_t n = kChannels<T>;
  if (channels < n) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t i = 0; i < count; ++i) tile[c][i] = x[i * channels + c];
    }
    return;
  }
  for (int64_t p = 0; p < count; p += n) {
    typename RowOf<T>::Row rows[n] = {};
    const int64_t here = count - p < n ? count - p : n;
    for (int64_t i = 0; i < here; ++i) std::memcpy(&rows[i], x + (p + i) * channels, 16);
    Transposed(rows);
    for (int64_t c = 0; c < n; ++c) std::memcpy(&tile[c][p], &rows[c], 16);
  }
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_CHANNEL_BLOCKS_H_
