// The layer that callers see: creation, plans, and for each group of images stage 1, then stage 2.
#include "lcnn/lookup_conv.h"

#include <chrono>

#include "base/aligned_buffer.h"
#include "base/dispatch.h"
#include "base/plan_cache.h"
#include "lookup_conv/job.h"

namespace lcnn {
namespace {

double Milliseconds(std::chrono::steady_clock::time_point since) {
  const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - since;
  return passed.count();
}

void RunGroup(const Job& job, const ParallelFor& parallel_for, StageTimes* times) {
  auto start = std::chrono::steady_clock::now();
  RunProject(job, parallel_for);
  if (times != nullptr) times->project_ms += Milliseconds(start);
  start = std::chrono::steady_clock::now();
  RunLookup(job, parallel_for);
  if (times != nullptr) times->lookup_ms += Milliseconds(start);
}

std::vector<float> WidenedValues(const PanelValues& values, size_t count) {
  std::vector<float> floats(count);
  kProjectScalar.widen(values, static_cast<int64_t>(count), floats.data());
  return floats;
}

}  // namespace

LookupConvKernels LookupConvKernelsWithin(CpuFeatures features) {
  return {LastWithin(features, ProjectRows()), LastWithin(features, LookupRows()),
          LastWithin(features, PoolRows())};
}

void RunPlan(const PackedWeights& weights, const Plan& plan, const LookupConvKernels& kernels,
             const LookupConvBuffers& buffers, const ParallelFor& parallel_for, StageTimes* times) {
  float* const s = AlignToCacheLine(static_cast<float*>(buffers.scratch));
  ThreadScratch threads(s + plan.threads_begin(), plan.thread_parts, plan.thread_floats.total());
  const int64_t batch = plan.geometry.in.batch;
  for (int64_t first = 0; first < batch; first += plan.runs.images) {
    const bool whole = first + plan.runs.images <= batch;
    const ImageGroup& group = whole ? plan.group : plan.last_group;
    RunGroup(
        {weights, plan, kernels, buffers.residual, buffers.x, buffers.y, s, threads, group, first},
        parallel_for, times);
  }
}

LookupConv::LookupConv(const LookupConvShape& shape, const LookupConvConstants& constants, Isa isa)
    : weights_(std::make_unique<PackedWeights>(shape, constants)),
      plans_(std::make_unique<PlanCache<Plan>>()),
      kernels_(std::make_unique<LookupConvKernels>(LookupConvKernelsWithin(FeaturesFor(isa)))) {}

LookupConv::~LookupConv() = default;

const LookupConvShape& LookupConv::shape() const { return weights_->shape(); }

int64_t LookupConv::lookups() const { return weights_->lookups(); }

std::shared_ptr<const Plan> LookupConv::PlanFor(int64_t batch, int64_t height,
                                                int64_t width) const {
  const InputSize size = {batch, height, width};
  std::shared_ptr<const Plan> plan = plans_->Find(size);
  if (plan == nullptr) {
    // Two threads may both make the plan of a new size; either is right.
    plan = std::make_shared<const Plan>(
        MakePlan(*weights_, kernels_->project, kernels_->lookup, size));
    plans_->Add(size, plan);
  }
  return plan;
}

void LookupConv::Run(const Plan& plan, const float* x, const Residual& residual, float* y,
                     void* scratch, const ParallelFor& parallel_for, StageTimes* times) const {
  RunPlan(*weights_, plan, *kernels_, {x, residual, y, scratch}, parallel_for, times);
}

std::vector<float> Widened(const uint16_t* halves, size_t count) {
  return WidenedValues({PanelType::kFloat16, halves}, count);
}

std::vector<float> Widened(const int8_t* bytes, size_t count) {
  return WidenedValues({PanelType::kInt8, bytes}, count);
}

size_t ScratchBytes(const Plan& plan) {
  return static_cast<size_t>(plan.scratch_floats()) * sizeof(float) + kCacheLine;
}

int64_t ProjectMacs(const Plan& plan) { return plan.project_macs; }

int64_t LookupMacs(const Plan& plan) { return plan.lookup_macs; }

}  // namespace lcnn
