// Stage 1 in float32: packing pixels of X, and the product of the dictionary with them.
#ifndef LCNN_SRC_KERNELS_F32_PROJECT_H_
#define LCNN_SRC_KERNELS_F32_PROJECT_H_

#include "kernels/lanes.h"

namespace lcnn {

// Rows of D in one packed panel: panel[i * kPanelRows + row] = D[row, i], missing rows are 0.
constexpr int kPanelRows = 8;

// Gathers pixels of X: packed[i * pitch + p] = x[i * plane + pixel of position p], 0 at the border,
// for the n_vectors vectors of positions. Reads only mapped pixels.
struct PackTask {
  const float* x;
  int64_t plane;
  int depth;  // channels
  const LaneMap* maps;
  const int32_t* indices;
  int n_vectors;
  float* packed;
  int64_t pitch;
};

// S[row * s_pitch + p] (+)= sum_i panel[i * kPanelRows + row] * packed[i * n_vectors * lanes + p],
// i ascending, for 0 <= row < rows <= kPanelRows and the n_vectors vectors of positions.
struct ProjectTask {
  const float* panel;
  const float* packed;
  int depth;
  int rows;
  int n_vectors;
  bool accumulate;  // add to what S holds
  float* s;
  int64_t s_pitch;
};

enum class PanelType : uint8_t { kFloat32, kFloat16, kInt8 };

// Values of a panel; float16 as its bits.
struct PanelValues {
  PanelType type;
  const void* values;

  const float* floats() const { return static_cast<const float*>(values); }
  const uint16_t* halves() const { return static_cast<const uint16_t*>(values); }
  const int8_t* bytes() const { return static_cast<const int8_t*>(values); }
};

// One pixel: out[row] = sum_i panel[i * kPanelRows + row] * x[i] for all kPanelRows rows. The order
// of summation is the kernel's own.
struct ProjectPixelTask {
  PanelValues panel;
  const float* x;
  int64_t depth;
  float* out;
};

struct ProjectKernels {
  int lanes;
  int block_vectors;  // vectors of positions held in registers; tiles that are a multiple of it are
                      // fastest
  void (*pack)(const PackTask&);
  void (*project)(const ProjectTask&);
  void (*project_pixel)(const ProjectPixelTask&);
  // Values that are not float32 to float32.
  void (*widen)(const PanelValues& values, int64_t count, float* floats);
};

#define LCNN_KERNELS(needs, suffix) extern const ProjectKernels kProject##suffix;
#include "kernels/f32_project.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_F32_PROJECT_H_
