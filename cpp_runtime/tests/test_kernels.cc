// The contracts of kernels/f32_project.h and f32_lookup.h that a whole operator does not isolate,
// for every row of kernels that the machine has.
#include <algorithm>

#include "base/dispatch.h"
#include "check.h"
#include "fixtures.h"
#include "reference.h"

namespace {

using lcnn::kPanelRows;
using lcnn::LaneMap;

// Every mask of the low lanes pattern as one vector: contiguous pixels with holes in the lanes.
void TestPackMasks(const lcnn::ProjectKernels& kernels) {
  const int lanes = kernels.lanes;
  std::mt19937 random(3);
  Guarded x(static_cast<size_t>(2 * lanes));
  Fill(&x, &random);
  for (uint32_t mask = 0; mask < 1u << lanes; mask += lanes == 16 ? 37 : 1) {
    int count = 0;
    for (int l = 0; l < lanes; ++l) count += static_cast<int>(mask >> l & 1);
    // The last pixels of X: reading past the count would meet the wall.
    const int base = 2 * lanes - count;
    const LaneMap map = {base, static_cast<uint16_t>(mask), static_cast<uint8_t>(count), 0};
    Guarded packed(static_cast<size_t>(lanes));
    kernels.pack({x.data(), 0, 1, &map, nullptr, 1, packed.data(), lanes});
    int next = base;
    for (int l = 0; l < lanes; ++l) {
      const float want = (mask >> l & 1) != 0 ? x[static_cast<size_t>(next++)] : 0;
      CHECK(packed[static_cast<size_t>(l)] == want);
    }
    CHECK(packed.WallsIntact());
  }
}

void TestPackIndices(const lcnn::ProjectKernels& kernels) {
  const int lanes = kernels.lanes;
  Guarded x(40), packed(static_cast<size_t>(2 * 3 * lanes));
  for (size_t i = 0; i < 40; ++i) x[i] = static_cast<float>(i);
  int32_t indices[lcnn::kMaxLanes] = {};
  for (int l = 0; l < lanes; ++l) indices[l] = 19 - l;
  const LaneMap map = {0, 5, 2, 1};  // lanes 0 and 2
  const LaneMap maps[3] = {{0, 0, 0, 0}, map, {0, 0, 0, 0}};
  kernels.pack({x.data(), 20, 2, maps, indices, 3, packed.data(), 3 * lanes});
  const auto at = [&](int i) { return packed[static_cast<size_t>(i)]; };
  CHECK(at(lanes) == 19 && at(lanes + 1) == 0 && at(lanes + 2) == 17 && at(0) == 0);
  CHECK(at(4 * lanes) == 39 && at(4 * lanes + 2) == 37 && packed.WallsIntact());
}

// Two runs of every other pixel, the second up to the last pixel of X.
void TestPackAlternate(const lcnn::ProjectKernels& kernels) {
  const int lanes = kernels.lanes;
  std::mt19937 random(4);
  for (int first = 0; first <= lanes; ++first) {
    for (int second = first == 0 ? 1 : 0; first + second < lanes; ++second) {
      Guarded x(static_cast<size_t>(2 * lanes + 9)), packed(static_cast<size_t>(lanes));
      Fill(&x, &random);
      const int last = static_cast<int>(x.size()) - 1;
      std::vector<int32_t> triples = {0};
      std::vector<float> want(packed.size(), 0.0f);
      uint32_t all = 0;
      const auto add = [&](int pixel, int count, int lane) {
        if (count == 0) return;
        const uint32_t mask = (1u << count) - 1u;
        triples.insert(triples.end(), {pixel, count, static_cast<int32_t>(mask << lane)});
        ++triples[0];
        all |= mask << lane;
        for (int l = 0; l < count; ++l) {
          want[static_cast<size_t>(lane + l)] = x[static_cast<size_t>(pixel + 2 * l)];
        }
      };
      add(1, first, 0);
      add(last - 2 * (second - 1), second, lanes - second);  // a gap before it
      const LaneMap map = {0, static_cast<uint16_t>(all), static_cast<uint8_t>(first + second),
                           lcnn::kAlternatePixels};
      kernels.pack({x.data(), 0, 1, &map, triples.data(), 1, packed.data(), lanes});
      CHECK(std::equal(want.begin(), want.end(), packed.data()));
      CHECK(packed.WallsIntact());
    }
  }
}

void TestProject(const lcnn::ProjectKernels& kernels, int rows, int vectors, int depth, bool add) {
  const int lanes = kernels.lanes;
  std::mt19937 random(static_cast<uint32_t>(rows * 100 + vectors));
  Guarded panel(static_cast<size_t>(depth * kPanelRows)),
      packed(static_cast<size_t>(depth * vectors * lanes));
  Fill(&panel, &random);
  Fill(&packed, &random);
  const int pitch = vectors * lanes + 7;
  Guarded s(static_cast<size_t>((rows - 1) * pitch + vectors * lanes));
  Fill(&s, &random);
  const Guarded before = s;
  kernels.project({panel.data(), packed.data(), depth, rows, vectors, add, s.data(), pitch});
  for (int r = 0; r < rows; ++r) {
    for (int p = 0; p < pitch && r * pitch + p < static_cast<int>(s.size()); ++p) {
      const auto at = static_cast<size_t>(r * pitch + p);
      if (p >= vectors * lanes) {
        CHECK(s[at] == before[at]);
        continue;
      }
      double want = add ? before[at] : 0, magnitude = std::fabs(want);
      for (int i = 0; i < depth; ++i) {
        const double term = static_cast<double>(panel[static_cast<size_t>(i * kPanelRows + r)]) *
                            packed[static_cast<size_t>(i * vectors * lanes + p)];
        want += term;
        magnitude += std::fabs(term);
      }
      CHECK(std::fabs(s[at] - want) <= 2 * (depth + 1) * 1.2e-7 * magnitude);
    }
  }
  CHECK(s.WallsIntact());
}

void TestProjectPixel(const lcnn::ProjectKernels& kernels, int depth, Stored stored) {
  std::mt19937 random(static_cast<uint32_t>(depth));
  Guarded panel(static_cast<size_t>(depth * kPanelRows)), x(static_cast<size_t>(depth)),
      out(kPanelRows);
  Fill(&panel, &random);
  Fill(&x, &random);
  std::vector<uint16_t> halves;
  std::vector<int8_t> bytes;
  lcnn::PanelValues values = {lcnn::PanelType::kFloat32, panel.data()};
  std::uniform_int_distribution<int> number(stored == Stored::kHalf ? 0 : -128,
                                            stored == Stored::kHalf ? 0x3bff : 127);
  for (size_t i = 0; i < panel.size(); ++i) {
    halves.push_back(static_cast<uint16_t>(number(random)));  // from 0 to 1
    bytes.push_back(static_cast<int8_t>(halves.back()));
  }
  if (stored != Stored::kFloat) {
    values = {lcnn::PanelType::kFloat16, halves.data()};
    if (stored == Stored::kByte) values = {lcnn::PanelType::kInt8, bytes.data()};
    kernels.widen(values, static_cast<int64_t>(panel.size()), panel.data());
  }
  kernels.project_pixel({values, x.data(), depth, out.data()});
  for (size_t r = 0; r < kPanelRows; ++r) {
    double want = 0, magnitude = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double term = static_cast<double>(panel[i * kPanelRows + r]) * x[i];
      want += term;
      magnitude += std::fabs(term);
    }
    CHECK(std::fabs(out[r] - want) <= 2 * depth * 1.2e-7 * magnitude);
  }
  CHECK(out.WallsIntact());
}

// Infinity in any channel is infinity in every row whose value is positive.
void TestProjectPixelInfinity(const lcnn::ProjectKernels& kernels, int depth) {
  Guarded panel(static_cast<size_t>(depth * kPanelRows)), x(static_cast<size_t>(depth)),
      out(kPanelRows);
  std::fill(panel.data(), panel.data() + panel.size(), 0.5f);
  for (int channel = 0; channel < depth; ++channel) {
    std::fill(x.data(), x.data() + x.size(), 1.0f);
    x[static_cast<size_t>(channel)] = std::numeric_limits<float>::infinity();
    kernels.project_pixel({{lcnn::PanelType::kFloat32, panel.data()}, x.data(), depth, out.data()});
    for (size_t r = 0; r < kPanelRows; ++r) CHECK(std::isinf(out[r]));
  }
}

void TestWiden(const lcnn::ProjectKernels& kernels, int count) {
  std::mt19937 random(5);
  std::uniform_int_distribution<uint32_t> any(0, 0xffff);
  std::vector<uint16_t> halves;
  while (halves.size() < static_cast<size_t>(count)) {
    const uint32_t bits = any(random);
    if ((bits >> 10 & 0x1f) != 31) halves.push_back(static_cast<uint16_t>(bits));  // finite
  }
  Guarded floats(static_cast<size_t>(count));
  kernels.widen({lcnn::PanelType::kFloat16, halves.data()}, count, floats.data());
  const std::vector<float> want = lcnn::Widened(halves.data(), halves.size());
  CHECK(std::equal(want.begin(), want.end(), floats.data()));
  const std::vector<int8_t> bytes(halves.begin(), halves.end());  // their lower halves
  kernels.widen({lcnn::PanelType::kInt8, bytes.data()}, count, floats.data());
  CHECK(std::equal(bytes.begin(), bytes.end(), floats.data()));
  CHECK(floats.WallsIntact());
}

void TestLookup(const lcnn::LookupKernels& kernels, int vectors, int entries, bool residual,
                int parts, bool hard_swish, bool one_pixel = false) {
  const int lanes = kernels.lanes;
  const int positions = vectors * lanes;
  std::mt19937 random(static_cast<uint32_t>(vectors * 100 + entries));
  Guarded s(static_cast<size_t>(positions + entries)), added(static_cast<size_t>(2 * positions));
  Fill(&s, &random);
  Fill(&added, &random);
  // Filter 0 has the entries, filter 1 none. The first vector lacks its last lane, the last one is
  // scattered backwards.
  std::vector<LaneMap> maps;
  std::vector<int32_t> indices;
  std::vector<int> pixel(static_cast<size_t>(positions), -1);
  const auto full = static_cast<uint16_t>((1u << lanes) - 1);
  for (int v = 0; v < vectors; ++v) {
    maps.push_back({v * lanes, full, static_cast<uint8_t>(lanes), 0});
    for (int l = 0; l < lanes; ++l) pixel[static_cast<size_t>(v * lanes + l)] = v * lanes + l;
  }
  maps[0].mask = static_cast<uint16_t>(full & ~2u);
  maps[0].count = static_cast<uint8_t>(lanes - 1);
  pixel[1] = -1;
  for (int l = 2; l < lanes; ++l) pixel[static_cast<size_t>(l)] = l - 1;
  if (vectors > 1) {
    maps.back() = {0, 1, 1, 1};
    indices.assign(static_cast<size_t>(lanes), 0);
    indices[0] = positions - 1;
    for (int l = 0; l < lanes; ++l)
      pixel[static_cast<size_t>((vectors - 1) * lanes + l)] = l == 0 ? positions - 1 : -1;
  }
  if (one_pixel) {
    maps[0] = {0, 1, 1, 0};
    std::fill(pixel.begin(), pixel.end(), -1);
    pixel[0] = 0;
  }
  std::vector<float> coefficients;
  std::vector<int32_t> offsets;
  for (int e = 0; e < entries; ++e) {
    coefficients.push_back(0.25f * static_cast<float>(e + 1));
    offsets.push_back(entries - 1 - e);
  }
  offsets.resize(offsets.size() + lcnn::kMaxLanes);
  const float bias[2] = {0.5f, -9};
  const int32_t entry_begin[3] = {0, entries, entries};
  Guarded y(static_cast<size_t>(2 * positions));
  Guarded sums(static_cast<size_t>(2 * positions), 0);
  lcnn::LookupTask task = {s.data(),
                           0,
                           2,
                           true,
                           true,
                           nullptr,
                           bias,
                           entry_begin,
                           coefficients.data(),
                           offsets.data(),
                           maps.data(),
                           indices.data(),
                           vectors,
                           residual ? added.data() : nullptr,
                           1.0f,
                           -2,
                           30,
                           hard_swish,
                           y.data(),
                           positions};
  if (parts == 2) {
    // The first call takes the first half of the entries of filter 0, the second the others.
    const int32_t half[3] = {0, entries / 2, entries / 2};
    const int32_t rest[3] = {entries / 2, entries, entries};
    task.sums = sums.data();
    task.last = false;
    task.entry_begin = half;
    kernels.own.lookup(task);
    for (size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]));
    task.first = false;
    task.last = true;
    task.entry_begin = rest;
    kernels.own.lookup(task);
    CHECK(sums.WallsIntact());
  } else {
    kernels.own.lookup(task);
  }
  std::vector<bool> written(y.size());
  for (int o = 0; o < 2; ++o) {
    for (int p = 0; p < positions; ++p) {
      if (pixel[static_cast<size_t>(p)] < 0) continue;
      const auto at = static_cast<size_t>(o * positions + pixel[static_cast<size_t>(p)]);
      written[at] = true;
      double want = bias[o] + 1.0 + (residual ? added[at] : 0);
      for (int e = 0; e < entries && o == 0; ++e) {
        want += static_cast<double>(coefficients[static_cast<size_t>(e)]) *
                s[static_cast<size_t>(p + offsets[static_cast<size_t>(e)])];
      }
      want = Activated(-2, 30, hard_swish, want);
      CHECK(std::fabs(y[at] - want) <= 1e-5 * (1 + entries * entries));
    }
  }
  for (size_t i = 0; i < y.size(); ++i) CHECK(written[i] || std::isnan(y[i]));
  CHECK(y.WallsIntact());
}

// Lists of `shared` filters, one filter short of three of them; the last pixels are the last of Y.
void TestLookupShared(const lcnn::LookupKernel& kernel, int lanes, int shared, int vectors,
                      bool residual, bool hard_swish) {
  const int entries = 5, positions = vectors * lanes;
  const int pixels = positions - 2, filters = 3 * shared - 1;
  std::mt19937 random(static_cast<uint32_t>(vectors * 100 + shared));
  Guarded s(static_cast<size_t>(positions + entries)), bias(static_cast<size_t>(filters));
  Guarded coefficients(static_cast<size_t>(3 * entries * shared));
  Guarded y(static_cast<size_t>(filters * pixels)), added(y.size());
  for (Guarded* buffer : {&s, &bias, &coefficients, &added}) Fill(buffer, &random);
  std::vector<LaneMap> maps;
  for (int v = 0; v < vectors; ++v) {
    const int count = v + 1 < vectors ? lanes : lanes - 2;
    maps.push_back(
        {v * lanes, static_cast<uint16_t>((1u << count) - 1), static_cast<uint8_t>(count), 0});
  }
  std::vector<int32_t> offsets;
  for (int e = 0; e < 3 * entries; ++e) offsets.push_back(e * 7 % (entries + 1));
  offsets.resize(offsets.size() + lcnn::kMaxLanes);
  const int32_t entry_begin[4] = {0, entries, 2 * entries, 3 * entries};
  kernel.lookup({s.data(),
                 shared,
                 filters,
                 true,
                 true,
                 nullptr,
                 bias.data(),
                 entry_begin,
                 coefficients.data(),
                 offsets.data(),
                 maps.data(),
                 nullptr,
                 vectors,
                 residual ? added.data() : nullptr,
                 1.0f,
                 -2,
                 3,
                 hard_swish,
                 y.data(),
                 pixels});
  for (int o = 0; o < filters; ++o) {
    for (int p = 0; p < pixels; ++p) {
      const auto at = static_cast<size_t>(o * pixels + p);
      if (o < shared) {  // before filter_begin
        CHECK(std::isnan(y[at]));
        continue;
      }
      double want = bias[static_cast<size_t>(o)] + 1.0 + (residual ? added[at] : 0);
      for (int e = o / shared * entries; e < (o / shared + 1) * entries; ++e) {
        const double c = coefficients[static_cast<size_t>(e * shared + o % shared)];
        want += c * s[static_cast<size_t>(p + offsets[static_cast<size_t>(e)])];
      }
      // Eight numbers below 8 in all, each sum of them rounded once; twice that after HardSwish.
      CHECK(std::fabs(y[at] - Activated(-2, 3, hard_swish, want)) <= 2 * 8 * 8 * 1.2e-7);
    }
  }
  CHECK(y.WallsIntact());
}

void TestProjectRow(const lcnn::ProjectKernels& kernels) {
  TestPackMasks(kernels);
  TestPackIndices(kernels);
  TestPackAlternate(kernels);
  for (int rows = 1; rows <= kPanelRows; ++rows) {
    for (int vectors = 1; vectors <= 7; ++vectors) {
      TestProject(kernels, rows, vectors, 5, false);
      TestProject(kernels, rows, vectors, 1, true);
    }
  }
  for (const int count : {0, 1, 3, 4, 7, 8, 15, 16, 17, 100}) TestWiden(kernels, count);
  for (const int depth : {1, 2, 7, 15, 16, 17, 33}) {
    for (const Stored stored : {Stored::kFloat, Stored::kHalf, Stored::kByte}) {
      TestProjectPixel(kernels, depth, stored);
    }
    TestProjectPixelInfinity(kernels, depth);
  }
}

void TestLookupRow(const lcnn::LookupKernels& kernels, bool residual, bool hard_swish) {
  CHECK(kernels.own.max_vectors <= lcnn::kMaxTileVectors);
  for (const int parts : {1, 2}) {
    for (const int entries : {16, 17, 31, 32, 33, 64, 67}) {
      TestLookup(kernels, 1, entries, residual, parts, hard_swish, true);
    }
    for (int vectors = 1; vectors <= kernels.own.max_vectors; ++vectors) {
      for (int entries = 0; entries <= 9; ++entries) {
        TestLookup(kernels, vectors, entries, residual, parts, hard_swish);
      }
    }
  }
  for (int i = 0; i < lcnn::kSharedKernels; ++i) {
    const lcnn::LookupKernel& kernel = kernels.shared[i];
    CHECK(kernel.max_vectors <= lcnn::kMaxTileVectors);
    for (int vectors = 1; vectors <= kernel.max_vectors; ++vectors) {
      TestLookupShared(kernel, kernels.lanes, lcnn::kSharedFilters[i], vectors, residual,
                       hard_swish);
    }
  }
}

}  // namespace

int main() {
  for (const auto& row : RowsToTest("project", lcnn::ProjectRows())) TestProjectRow(*row.kernels);
  for (const auto& row : RowsToTest("lookup", lcnn::LookupRows())) {
    for (const bool residual : {false, true}) {
      for (const bool hard_swish : {false, true}) {
        TestLookupRow(*row.kernels, residual, hard_swish);
      }
    }
  }
  return TestResult();
}
