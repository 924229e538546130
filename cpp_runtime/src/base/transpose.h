// Matrices of floats, transposed.
#ifndef LCNN_SRC_BASE_TRANSPOSE_H_
#define LCNN_SRC_BASE_TRANSPOSE_H_

#include <cstdint>

namespace lcnn {

// to[c * to_pitch + r] = from[r * from_pitch + c].
void Transpose(const float* from, int64_t from_pitch, int64_t rows, int64_t columns, float* to,
               int64_t to_pitch);

// The same of any four bytes; pitches are in units of them, pointers need no alignment.
void TransposeWords(const uint8_t* from, int64_t from_pitch, int64_t rows, int64_t columns,
                    uint8_t* to, int64_t to_pitch);

}  // namespace lcnn

#endif  // LCNN_SRC_BASE_TRANSPOSE_H_
