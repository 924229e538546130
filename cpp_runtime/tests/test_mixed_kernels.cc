// Stage 1 of one row of kernels and stage 2 of another: a family need not have a row for every set
// of features, so vectors of the two stages may differ in length.
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
  lcnn::RunPlan(weights, plan, kernels, {x.data(), {}, y.data(), scratch.data()}, {}, nullptr);
  CompareAll(c, layer, x, none, ResidualKind::kNone, y, c.name + names);
  CHECK_TEXT(y.WallsIntact() && scratch.WallsIntact(), c.name + names);
}

}  // namespace

int main() {
  const lcnn::PoolKernels& pool = lcnn::LastWithin(lcnn::DetectCpuFeatures(), lcnn::PoolRows());
  for (const auto& project : RowsToTest("project", lcnn::ProjectRows())) {
    for (const auto& lookup : RowsToTest("lookup", lcnn::LookupRows())) {
      const std::string names = std::string(", ") + project.suffix + " and " + lookup.suffix;
      for (const Case& c : Cases()) {
        if (IsSmall(c)) RunMixed(c, {*project.kernels, *lookup.kernels, pool}, names);
      }
    }
  }
  return TestResult();
}
