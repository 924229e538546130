// A convolution by lists of planes of quads, as units of work.
#ifndef LCNN_SRC_NARROW_CONV_LIST_UNITS_H_
#define LCNN_SRC_NARROW_CONV_LIST_UNITS_H_

#include "narrow_conv/packed_conv.h"
#include "narrow_conv/planes.h"

namespace lcnn {

struct ListJob {
  const PackedLists& lists;
  ResultLimits limits;
  Grid grid;         // of results
  const uint8_t* x;  // for each image, the planes of its quads
  PaddedPlanes planes;
  const int32_t* tap_bytes;
  uint8_t* bytes;           // (images, height, width, filters), or null
  const uint8_t* residual;  // null, or like bytes
  float* floats;            // (images, filters, height, width), or null
  int64_t filters;
};

// Where each tap of a kernel lies, in bytes.
std::vector<int32_t> TapBytes(const PaddedPlanes& planes, const Axis& height, const Axis& width);

// Bytes behind the planes that are read.
int64_t ListBytesBeyond(const Axis& width);

void RunLists(const ListJob& job, const ParallelFor& parallel_for);

}  // namespace lcnn

#endif  // LCNN_SRC_NARROW_CONV_LIST_UNITS_H_
