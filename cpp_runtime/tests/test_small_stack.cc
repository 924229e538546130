// All of a run, every way a layer can run, in a thread with little stack: a process chooses how
// much its threads have, and what runs in them must not need more than 64 KiB.
#include <pthread.h>
#include <unistd.h>

#include <cstring>

#include "byte_layer.h"
#include "layer.h"
#include "lcnn/max_pool.h"
#include "lookup_conv/plan.h"

namespace {

// Sanitizers put a frame's variables apart from each other and need stack of their own.
#if defined(LCNN_ASAN) || defined(__SANITIZE_THREAD__)
constexpr size_t kUnitStack = 256 * 1024;
#else
constexpr size_t kUnitStack = 64 * 1024;
#endif

// Runs body() in a thread that has kUnitStack beside what the system itself needs.
template <class Body>
void InSmallThread(const Body& body) {
  pthread_attr_t attributes;
  pthread_t thread;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t system = static_cast<size_t>(PTHREAD_STACK_MIN);
  const size_t size = (kUnitStack + system + page - 1) / page * page;
  const auto call = [](void* argument) -> void* {
    (*static_cast<const Body*>(argument))();
    return nullptr;
  };
  pthread_attr_init(&attributes);
  const bool started = pthread_attr_setstacksize(&attributes, size) == 0 &&
                       pthread_create(&thread, &attributes, call, const_cast<Body*>(&body)) == 0;
  CHECK(started);
  if (started) pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

bool SameBits(const Guarded& a, const Guarded& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Which ways were taken: all must be.
struct Taken {
  bool project[4] = {};
  bool result[4] = {};
  bool copied = false;
  bool waits = false;  // sums, between parts of lists

  void Add(const lcnn::Plan& plan) {
    project[static_cast<size_t>(plan.project_mode)] = true;
    result[static_cast<size_t>(plan.tiling.mode)] = true;
    copied = copied || plan.thread_floats.copy > 0;
    waits = waits || plan.thread_floats.sums > 0;
  }
  bool All() const {
    const auto yes = [](bool taken) { return taken; };
    return copied && waits && std::all_of(project, project + 4, yes) &&
           std::all_of(result, result + 4, yes);
  }
};

void RunCase(const Case& c, lcnn::Isa isa, Taken* taken) {
  std::mt19937 random(17);
  Layer layer(c, &random, Stored::kHalf);
  layer.shape.hard_swish = true;
  const lcnn::LookupConv conv(layer.shape, layer.constants, isa);
  if (c.filters == 0) return;
  const auto plan = conv.PlanFor(c.batch, c.height, c.width);
  taken->Add(*plan);
  const lcnn::Geometry& geometry = plan->geometry;
  const bool pools = layer.shape.pools();
  const int64_t plane = pools ? geometry.pooled_plane() : geometry.out_plane();
  Guarded x(static_cast<size_t>(c.batch * c.channels * c.height * c.width));
  Guarded y(static_cast<size_t>(c.batch * c.filters * plane)), small(y.size()), added(y.size());
  Guarded scratch(lcnn::ScratchBytes(*plan) / sizeof(float));
  Fill(&x, &random);
  Fill(&added, &random);
  lcnn::Residual residual;
  if (!pools) residual.tensor = added.data();
  conv.Run(*plan, x.data(), residual, y.data(), scratch.data(), {});
  InSmallThread([&] { conv.Run(*plan, x.data(), residual, small.data(), scratch.data(), {}); });
  CHECK_TEXT(SameBits(y, small), std::string(c.name) + ", " + lcnn::IsaName(isa));
}

void RunPool(lcnn::Isa isa) {
  const lcnn::MaxPoolShape shape = {{3, 2, 1, 1, 1}, {3, 1, 1, 1, 1}};
  std::mt19937 random(17);
  Guarded x(9 * 1200), y(5 * 1200), small(y.size());
  Fill(&x, &random);
  lcnn::MaxPool(shape, isa, 1, 9, 1200, x.data(), y.data(), {});
  InSmallThread([&] { lcnn::MaxPool(shape, isa, 1, 9, 1200, x.data(), small.data(), {}); });
  CHECK(SameBits(y, small));
}

// Every way to pack, of bytes and floats out.
void RunBytes(lcnn::Isa isa) {
  const ByteCase cases[] = {
      {"dense", 1, 64, 64, 1, 0, 9, 30},
      {"lookup", 1, 64, 64, 1, 16, 9, 30},
      {"lists", 1, 64, 64, 1, 16, 9, 30, {3, 1, 1, 1, 1}, {3, 1, 1, 1, 1}, 0.1},
      {"depthwise", 1, 64, 64, 64, 0, 9, 30}};
  std::mt19937 random(17);
  for (const ByteCase& c : cases) {
    for (const bool to_narrow : {false, true}) {
      const ByteLayer layer(c, to_narrow, &random);
      const lcnn::NarrowConv conv(layer.shape, layer.constants, isa);
      const std::vector<uint8_t> x(64 * 9 * 30, 201), residual(x);
      const size_t bytes = x.size() * (to_narrow ? 1 : sizeof(float));
      std::vector<uint8_t> y(bytes), small(bytes), scratch(conv.ScratchBytes(1, 9, 30));
      const lcnn::NarrowConvInput input = {1, 9, 30, x.data(),
                                           to_narrow ? residual.data() : nullptr};
      conv.Run(input, y.data(), scratch.data(), {});
      InSmallThread([&] { conv.Run(input, small.data(), scratch.data(), {}); });
      CHECK_TEXT(y == small, std::string(c.name) + ", " + lcnn::IsaName(isa));
    }
  }
}

}  // namespace

int main() {
  for (const lcnn::Isa isa : IsasToTest()) {
    Taken taken;
    for (const Case& c : Cases()) RunCase(c, isa, &taken);
    CHECK_TEXT(taken.All(), std::string("a way to run was not taken, ") + lcnn::IsaName(isa));
    RunPool(isa);
    RunBytes(isa);
  }
  return TestResult();
}
