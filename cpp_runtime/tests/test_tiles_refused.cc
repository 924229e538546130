// A process that may not use tiles does without them: Linux refuses them to one with a signal stack
// that is too small to save them on.
#include <csignal>
#include <cstdio>
#include <vector>

#include "base/cpu_features.h"
#include "check.h"
#include "lcnn/types.h"

int main() {
  std::vector<char> small(2048);  // the least that Linux takes
  stack_t stack = {};
  stack.ss_sp = small.data();
  stack.ss_size = small.size();
  CHECK(sigaltstack(&stack, nullptr) == 0);
  CHECK((lcnn::DetectCpuFeatures() & lcnn::kAmx) == 0);
  CHECK(lcnn::ChooseIsa() != lcnn::Isa::kAmx);
  stack.ss_flags = SS_DISABLE;
  CHECK(sigaltstack(&stack, nullptr) == 0);
  if ((lcnn::DetectCpuFeatures() & lcnn::kAmx) == 0) {
    std::printf("SKIPPED: this machine has no tiles that could be refused\n");
  }
  return TestResult();
}
