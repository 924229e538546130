// Which kernels are taken, on processors that this machine may not be.
#include <cstdlib>
#include <string>

#include "base/dispatch.h"
#include "check.h"

namespace {

struct Kernels {
  int number;
};

constexpr lcnn::CpuFeatures kA = 1, kB = 2, kC = 4;

// Rows of features none of which contain each other: neither A before B nor B before A.
int Taken(lcnn::CpuFeatures features) {
  static const Kernels kernels[] = {{0}, {1}, {2}, {3}};
  static const lcnn::KernelRows<Kernels> rows = {{lcnn::kNoFeatures, "Plain", &kernels[0]},
                                                 {kA, "A", &kernels[1]},
                                                 {kB, "B", &kernels[2]},
                                                 {kA | kC, "AC", &kernels[3]}};
  return lcnn::LastWithin(features, rows).number;
}

void TestLastRowWithin() {
  CHECK(Taken(lcnn::kNoFeatures) == 0 && Taken(kC) == 0);
  CHECK(Taken(kA) == 1 && Taken(kB) == 2 && Taken(kB | kC) == 2);
  CHECK(Taken(kA | kB) == 2 && Taken(kA | kC) == 3 && Taken(kA | kB | kC) == 3);
}

// The first row of every family needs nothing, and a named set of features is enough for a row.
template <class Rows>
void CheckRows(const Rows& rows) {
  CHECK(rows.front().needs == lcnn::kNoFeatures && std::string(rows.front().suffix) == "Scalar");
  const auto& scalar = lcnn::LastWithin(lcnn::FeaturesFor(lcnn::Isa::kScalar), rows);
  CHECK(&scalar == rows.front().kernels);
  for (const auto& row : rows) CHECK(&lcnn::LastWithin(row.needs, rows) == row.kernels);
}

void TestNames() {
  const lcnn::CpuFeatures machine = lcnn::DetectCpuFeatures();
  for (const lcnn::Isa isa : lcnn::BuiltIsas()) {
    const lcnn::CpuFeatures features = lcnn::FeaturesFor(isa);
    CHECK(lcnn::Contains(machine, features));
    setenv("LCNN_ISA", lcnn::IsaName(isa), 1);
    CHECK(!lcnn::IsaSupported(isa) || lcnn::ChooseIsa() == isa);
    if (isa == lcnn::Isa::kAvx2) CHECK((features & lcnn::kAvx512F) == 0);
  }
  setenv("LCNN_ISA", "AVX2", 1);
  std::string names;
  for (const lcnn::Isa isa : lcnn::BuiltIsas()) {
    names += (names.empty() ? "" : ", ") + std::string(lcnn::IsaName(isa));
  }
  CHECK_THROWS(lcnn::ChooseIsa(), "LCNN_ISA is 'AVX2'; it must be one of " + names);
  unsetenv("LCNN_ISA");
  for (const lcnn::Isa isa : lcnn::BuiltIsas()) {
    if (lcnn::IsaSupported(isa)) CHECK(lcnn::ChooseIsa() >= isa);
  }
  constexpr auto kUnknown = static_cast<lcnn::Isa>(99);
  CHECK_THROWS(lcnn::FeaturesFor(kUnknown), "no kernels for instruction set 99");
}

}  // namespace

int main() {
  TestLastRowWithin();
  CheckRows(lcnn::ProjectRows());
  CheckRows(lcnn::LookupRows());
  CheckRows(lcnn::PoolRows());
  CheckRows(lcnn::DotRows());
  CheckRows(lcnn::DepthRows());
  CheckRows(lcnn::ListRows());
  CheckRows(lcnn::ByteMapRows());
  TestNames();
  return TestResult();
}
