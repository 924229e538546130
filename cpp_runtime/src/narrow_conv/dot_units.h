// One convolution of planes as units of work.
#ifndef LCNN_SRC_NARROW_CONV_DOT_UNITS_H_
#define LCNN_SRC_NARROW_CONV_DOT_UNITS_H_

#include "narrow_conv/packed_conv.h"
#include "narrow_conv/planes.h"

namespace lcnn {

// Where results go.
enum class Result {
  kNarrow,  // to narrow numbers; a pixel's filters follow each other
  kFloats,  // to floats (images, filters, height, width)
  kHalves,  // like narrow numbers, floats rounded to bfloat16
  kQuads,   // to bytes, where four filters of a pixel follow each other, and four others are
            // elsewhere
};

struct DotJob {
  const PackedStage& stage;
  ResultLimits limits;
  Grid grid;  // of results
  const uint8_t* x;
  Places from;        // of the window of a result, bytes
  int64_t row_bytes;  // from one row of x to the next
  Result result;
  uint8_t* narrow;
  Places to;                // of narrow results, bytes
  const uint8_t* residual;  // null, or like them; of kNarrow
  float* floats;
  int64_t filters;
  int64_t quad_bytes;                          // from four filters to the next, of kQuads
  const Bfloat16MapKernels* halves = nullptr;  // of kHalves
};

void RunDots(const DotJob& job, const ParallelFor& parallel_for);

}  // namespace lcnn

#endif  // LCNN_SRC_NARROW_CONV_DOT_UNITS_H_
