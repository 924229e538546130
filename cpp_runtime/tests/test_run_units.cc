// Units are run once each, and no two threads have the same part of scratch.
#include <atomic>
#include <vector>

#include "base/run_units.h"
#include "check.h"
#include "fixtures.h"

namespace {

constexpr int64_t kPartFloats = 16;
constexpr size_t kUnits = 2000;

struct Job {
  std::vector<std::atomic<int>>& runs;    // of each unit
  std::vector<std::atomic<int>>& in_use;  // of each part
  std::atomic<int>& shared;               // times that a part was in use by another unit
  std::atomic<int>& outside;              // times that a part was none of those there are
  float* begin;
};

void Unit(const Job& job, float* part, size_t i) {
  ++job.runs[i];
  const auto index = static_cast<size_t>((part - job.begin) / kPartFloats);
  if (index >= job.in_use.size() || (part - job.begin) % kPartFloats != 0) {
    ++job.outside;
    return;
  }
  if (++job.in_use[index] != 1) ++job.shared;
  for (int64_t f = 0; f < kPartFloats; ++f) part[f] = static_cast<float>(i);
  bool kept = true;
  for (int64_t f = 0; f < kPartFloats; ++f) kept = kept && part[f] == static_cast<float>(i);
  if (!kept) ++job.shared;
  --job.in_use[index];
}

// Fewer parts than threads: some wait.
void TestParts(int threads, int64_t parts, bool worth_threads) {
  std::vector<float> memory(static_cast<size_t>(parts * kPartFloats));
  std::vector<std::atomic<int>> runs(kUnits), in_use(static_cast<size_t>(parts));
  std::atomic<int> shared{0}, outside{0};
  lcnn::ThreadScratch scratch(memory.data(), parts, kPartFloats);
  Threads pool(threads);
  const Job job = {runs, in_use, shared, outside, memory.data()};
  lcnn::RunUnits(pool.Loop(), worth_threads, kUnits, &scratch, Unit, job);
  bool once = true;
  for (const auto& count : runs) once = once && count == 1;
  CHECK(once && shared == 0 && outside == 0);
}

struct NullJob {
  std::atomic<int>& nulls;
};

void NullUnit(const NullJob& job, float* part, size_t) {
  if (part == nullptr) ++job.nulls;
}

void TestNoParts(int threads) {
  std::atomic<int> nulls{0};
  lcnn::ThreadScratch scratch(nullptr, 0, 0);
  Threads pool(threads);
  lcnn::RunUnits(pool.Loop(), true, 10, &scratch, NullUnit, NullJob{nulls});
  CHECK(nulls == 10);
}

}  // namespace

int main() {
  for (const int threads : {1, 4}) {
    for (const int64_t parts : {1, 2, 4, 9}) {
      TestParts(threads, parts, true);
      TestParts(threads, parts, false);
    }
    TestNoParts(threads);
  }
  CHECK(lcnn::MachineThreads() >= 1);
  return TestResult();
}
