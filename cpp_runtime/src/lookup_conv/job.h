// One Run of a layer, group of images by group of images.
#ifndef LCNN_SRC_LOOKUP_CONV_JOB_H_
#define LCNN_SRC_LOOKUP_CONV_JOB_H_

#include <cstdint>

#include "base/cpu_features.h"
#include "base/run_units.h"
#include "kernels/f32_lookup.h"
#include "kernels/f32_pool.h"
#include "kernels/f32_project.h"
#include "lcnn/lookup_conv.h"
#include "lookup_conv/packed_weights.h"
#include "lookup_conv/plan.h"

namespace lcnn {

struct LookupConvKernels {
  const ProjectKernels& project;
  const LookupKernels& lookup;
  const PoolKernels& pool;
};

LookupConvKernels LookupConvKernelsWithin(CpuFeatures features);

// What the units of work on a group of images share.
struct Job {
  const PackedWeights& weights;
  const Plan& plan;
  const LookupConvKernels& kernels;
  Residual residual;
  const float* x;
  float* y;
  float* s;
  ThreadScratch& threads;
  const ImageGroup& group;
  int64_t first_image;

  // The group's first value in a tensor (batch, out_channels, plane).
  int64_t First(int64_t plane) const { return first_image * weights.shape().out_channels * plane; }
};

// Stage 1: S of the group's images.
void RunProject(const Job& job, const ParallelFor& parallel_for);

// Stage 2: Y of the group's images.
void RunLookup(const Job& job, const ParallelFor& parallel_for);

struct LookupConvBuffers {
  const float* x;
  Residual residual;
  float* y;
  void* scratch;  // ScratchBytes(plan) bytes
};

// Both stages of all groups of images. `times` may be null.
void RunPlan(const PackedWeights& weights, const Plan& plan, const LookupConvKernels& kernels,
             const LookupConvBuffers& buffers, const ParallelFor& parallel_for, StageTimes* times);

}  // namespace lcnn

#endif  // LCNN_SRC_LOOKUP_CONV_JOB_H_
