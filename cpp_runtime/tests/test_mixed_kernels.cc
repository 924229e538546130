// Stage 1 of one row of kernels and stage 2 of another: a family need not have a row for every set
// of features, so vectors of the two stages may differ in length.
#include "base/aligned_buffer.h"
#include "base/dispatch.h"
#include "layer.h"
#include "lookup_conv/job.h"

namespace {

// The loops in double precision take most of this test's time, and the large cases most of that.
bool IsSmall(const Case& c) {
  const int64_t macs = c.batch * c.filters * c.height * c.width * c.rows.kernel * c.columns.kernel *
                       c.dictionary * c.channels / c.group;
  return static_cast<double>(macs) * c.density < 1e6;
}

void RunMixed(const Case& c, const lcnn::LookupConvKernels& kernels, const std::string& names) {
  std::mt19937 random(23);
  const Layer layer(c, &random);
  if (c.filters == 0) return;
  const lcnn::PackedWeights weights(layer.shape, layer.constants);
  const lcnn::InputSize size = {c.batch, c.height, c.width};
  const lcnn::Plan plan = lcnn::MakePlan(weights, kernels.project, kernels.lookup, size);
  const lcnn::Geometry& geometry = plan.geometry;
  const int64_t plane = layer.shape.pools() ? geometry.pooled_plane() : geometry.out_plane();
  Guarded x(static_cast<size_t>(c.batch * c.channels * c.height * c.width));
  Guarded y(static_cast<size_t>(c.batch * c.filters * plane));
  Guarded scratch(lcnn::ScratchBytes(plan) / sizeof(float));
  Guarded none(1);
  Fill(&x, &random);
  float* const s = lcnn::AlignToCacheLine(scratch.data());
  lcnn::ThreadScratch threads(s + plan.threads_begin(), plan.thread_parts,
                              plan.thread_floats.total());
  const lcnn::Residual residual;
  for (int64_t first = 0; first < c.batch; first += plan.runs.images) {
    const bool whole = first + plan.runs.images <= c.batch;
    const lcnn::Job job = {weights,  plan,     kernels,
                           residual, x.data(), y.data(),
                           s,        threads,  whole ? plan.group : plan.last_group,
                           first};
    lcnn::RunProject(job, {});
    lcnn::RunLookup(job, {});
  }
  CompareAll(c, layer, x, none, ResidualKind::kNone, y, c.name + names);
  CHECK_TEXT(y.WallsIntact() && scratch.WallsIntact(), c.name + names);
}

}  // namespace

int main() {
  const lcnn::CpuFeatures features = lcnn::DetectCpuFeatures();
  const lcnn::PoolKernels& pool = lcnn::LastWithin(features, lcnn::PoolRows());
  for (const auto& project : lcnn::ProjectRows()) {
    for (const auto& lookup : lcnn::LookupRows()) {
      if (!lcnn::Contains(features, project.needs | lookup.needs)) continue;
      if (project.kernels->lanes == lookup.kernels->lanes) continue;  // as in test_lookup_conv
      const std::string names = std::string(", ") + project.suffix + " and " + lookup.suffix;
      for (const Case& c : Cases()) {
        if (IsSmall(c)) RunMixed(c, {*project.kernels, *lookup.kernels, pool}, names);
      }
    }
  }
  return TestResult();
}
