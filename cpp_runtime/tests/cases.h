// The layers and inputs that the operator is tested with, each for a reason.
#ifndef LCNN_TESTS_CASES_H_
#define LCNN_TESTS_CASES_H_

#include <limits>
#include <string>
#include <vector>

#include "lcnn/lookup_conv.h"

struct Case {
  const char* name;
  int64_t batch, height, width;
  int64_t channels, filters, group, dictionary;
  lcnn::Axis rows, columns;  // kernel, stride, dilation, padding before and after
  double density;            // of non-zeros in P; 1 is every dictionary entry at every position
  int64_t share = 1;         // neighbouring filters with the same pattern
  bool identity = false;     // the dictionary
  int64_t first_filled = 0;  // filters before it have no entries
  lcnn::Axis pool_rows = {}, pool_columns = {};
};

constexpr lcnn::Axis kThree = {3, 1, 1, 1, 1};
constexpr lcnn::Axis kOne = {1, 1, 1, 0, 0};
constexpr lcnn::Axis kPool = {3, 2, 1, 1, 1};

inline std::vector<Case> Cases() {
  std::vector<Case> cases = {
      {"plain 3x3", 1, 7, 6, 8, 5, 1, 4, kThree, kThree, 0.4},
      {"all entries (s = k)", 1, 6, 5, 4, 3, 1, 4, kThree, kThree, 1},
      {"one entry of 4 per position (s = 1)", 1, 6, 5, 4, 3, 1, 4, kThree, kThree, 0.25},
      {"no entries", 2, 5, 5, 4, 3, 1, 4, kThree, kThree, 0},
      {"empty dictionary", 2, 5, 5, 4, 3, 1, 0, kThree, kThree, 0},
      {"no filters", 2, 5, 5, 4, 0, 1, 4, kThree, kThree, 0.5},
      {"one entry", 1, 5, 5, 4, 3, 1, 1, kThree, kThree, 1},
      {"non-square kernel", 2, 9, 11, 3, 4, 1, 3, {1, 1, 1, 0, 0}, {7, 1, 1, 3, 3}, 0.5},
      {"asymmetric padding", 2, 6, 9, 3, 4, 1, 3, {3, 1, 1, 0, 2}, {2, 1, 1, 3, 0}, 0.5},
      {"stride 2", 2, 11, 14, 3, 4, 1, 3, {3, 2, 1, 1, 1}, {3, 2, 1, 1, 1}, 0.5},
      {"stride 2, 1x1", 2, 9, 8, 5, 4, 1, 3, {1, 2, 1, 0, 0}, {1, 2, 1, 0, 0}, 0.5},
      {"stride 3 in rows only", 2, 11, 7, 3, 4, 1, 3, {2, 3, 1, 0, 1}, kThree, 0.5},
      {"stem 7x7/2", 1, 29, 31, 3, 6, 1, 3, {7, 2, 1, 3, 3}, {7, 2, 1, 3, 3}, 0.5},
      {"stride above the kernel", 2, 13, 12, 3, 4, 1, 3, {2, 4, 1, 0, 0}, {2, 5, 1, 1, 1}, 0.7},
      {"padding above the kernel", 2, 4, 3, 3, 4, 1, 3, {3, 1, 1, 5, 4}, {3, 2, 1, 6, 7}, 0.7},
      {"dilation", 2, 9, 12, 3, 4, 1, 3, {3, 1, 2, 2, 2}, {3, 1, 3, 3, 3}, 0.5},
      {"dilation and stride", 2, 13, 12, 3, 4, 1, 3, {3, 2, 3, 3, 2}, {2, 3, 2, 1, 1}, 0.5},
      {"two groups", 2, 6, 7, 6, 8, 2, 3, kThree, kThree, 0.5},
      {"depthwise", 1, 8, 7, 5, 5, 5, 1, kThree, kThree, 1},
      {"batch 33, 1x1 plane", 33, 1, 1, 7, 5, 1, 6, kOne, kOne, 0.6},
      {"batch 300, 1x1 plane, blocks of filters", 300, 1, 1, 9, 150, 1, 6, kOne, kOne, 0.4},
      {"batch 20, 1x1 plane, groups", 20, 1, 1, 12, 70, 2, 4, kOne, kOne, 0.4},
      {"batch 9, one of 2x2", 9, 2, 2, 6, 7, 1, 4, {1, 2, 1, 0, 0}, {1, 2, 1, 0, 0}, 0.6},
      {"batch 9, one pixel, padded", 9, 1, 1, 6, 7, 1, 4, kThree, kThree, 0.6},
      {"batch 9, one pixel, not read", 9, 1, 1, 6, 7, 1, 4, kOne, {1, 3, 1, 2, 0}, 0.6},
      {"batch 33, 2x2 plane", 33, 2, 2, 7, 5, 1, 6, kThree, kThree, 0.6},
      {"batch 5, 3x3 plane", 5, 3, 3, 3, 4, 1, 4, kThree, kThree, 0.6},
      {"batch 6, 7x7 plane", 6, 7, 7, 3, 4, 1, 4, kThree, kThree, 0.6},
      {"batch 3, 14x14 plane", 3, 14, 14, 3, 4, 1, 4, kThree, kThree, 0.6},
      {"batch 5, images in several groups of S", 5, 40, 40, 2, 3, 1, 70, kThree, kThree, 0.02},
      {"one pixel", 1, 1, 1, 19, 5, 1, 9, kOne, kOne, 0.5},
      {"one pixel, groups, long vector", 1, 1, 1, 602, 6, 2, 11, kOne, kOne, 0.3},
      {"one pixel, padded", 1, 1, 1, 5, 4, 1, 3, kThree, kThree, 0.8},
      {"one pixel, not read", 1, 1, 1, 5, 4, 1, 3, kOne, {1, 3, 1, 2, 0}, 0.8},
      {"one output of a 6x6 plane", 1, 6, 6, 7, 5, 1, 6, {6, 1, 1, 0, 0}, {6, 1, 1, 0, 0}, 0.2},
      {"one output, long lists", 1, 3, 3, 7, 5, 1, 30, {3, 1, 1, 0, 0}, {3, 1, 1, 0, 0}, 0.3},
      {"one output, cut", 1, 3, 3, 7, 40, 1, 30, {3, 1, 1, 0, 0}, {3, 1, 1, 0, 0}, 0.4},
      {"one output, groups", 1, 3, 3, 8, 6, 2, 30, {3, 1, 1, 0, 0}, {3, 1, 1, 0, 0}, 0.4},
      {"more channels than a block", 1, 5, 6, 300, 5, 1, 17, kThree, kThree, 0.2},
      {"work for several threads", 2, 20, 21, 40, 24, 1, 20, kThree, kThree, 0.3},
      // Dictionaries that stay float16.
      {"large dictionary, one pixel", 1, 1, 1, 2060, 3, 1, 130, kOne, kOne, 0.2},
      {"large dictionary", 2, 1, 3, 2060, 3, 1, 130, kOne, kOne, 0.2},
      // Lists dense enough to be cut into parts and worked on in copies of S.
      {"cut", 1, 9, 12, 4, 26, 1, 23, kThree, kThree, 0.5},
      {"cut, one part", 2, 14, 14, 4, 28, 1, 9, kThree, kThree, 0.5},
      {"cut, small planes together", 5, 7, 7, 4, 150, 1, 50, kThree, kThree, 0.2},
      {"cut, 1x1 plane", 33, 1, 1, 4, 28, 1, 200, kOne, kOne, 0.5},
      {"cut, 2x2 plane", 3, 2, 2, 4, 28, 1, 30, kThree, kThree, 0.5},
      {"cut, stride and padding", 2, 13, 15, 4, 28, 1, 40, {3, 2, 1, 0, 2}, {3, 2, 1, 2, 1}, 0.5},
      {"cut, 5x5 dilated", 1, 17, 19, 3, 28, 1, 9, {5, 1, 2, 4, 4}, {5, 1, 3, 6, 6}, 0.5},
      {"cut, stem 11x11/4", 1, 47, 45, 3, 28, 1, 3, {11, 4, 1, 2, 2}, {11, 4, 1, 2, 2}, 0.5},
      {"cut, rows longer than a tile", 1, 3, 300, 2, 28, 1, 22, kThree, kThree, 0.5},
      {"cut, images in several groups of S", 4, 40, 40, 2, 28, 1, 70, kThree, kThree, 0.5},
      // Lists so dense that filters share them, and patterns that neighbours have in common.
      {"shared", 1, 9, 12, 4, 31, 1, 23, kThree, kThree, 0.8},
      {"shared, all entries", 2, 14, 14, 4, 23, 1, 9, kThree, kThree, 1},
      {"shared, groups", 2, 7, 7, 6, 32, 2, 5, kThree, kThree, 0.9},
      {"shared, small planes together", 5, 7, 7, 4, 41, 1, 50, kThree, kThree, 0.8},
      {"shared, one pixel", 1, 1, 1, 40, 30, 1, 17, kOne, kOne, 1},
      {"shared, stride and padding",
       2,
       13,
       15,
       4,
       23,
       1,
       40,
       {3, 2, 1, 0, 2},
       {3, 2, 1, 2, 1},
       0.9},
      {"shared by 2", 1, 12, 13, 5, 15, 1, 11, kThree, kThree, 0.3, 2},
      {"shared by 4", 2, 9, 23, 5, 23, 1, 11, kThree, kThree, 0.2, 4},
      {"shared by 8", 1, 12, 40, 5, 21, 1, 11, kThree, kThree, 0.2, 8},
      {"shared by 4, work for several threads", 2, 20, 21, 40, 48, 1, 20, kThree, kThree, 0.3, 4},
      {"shared, first filters empty", 1, 1, 40, 1, 13, 1, 2100, kOne, kOne, 1, 1, false, 8},
      // S is X.
      {"identity", 1, 9, 12, 14, 5, 1, 14, kThree, kThree, 0.1, 1, true},
      {"identity, groups, stride", 3, 9, 12, 14, 6, 2, 7, {3, 2, 1, 1, 1}, kThree, 0.3, 1, true},
      {"identity, depthwise", 2, 8, 7, 5, 5, 5, 1, kThree, kThree, 1, 1, true},
      {"identity, one pixel", 1, 1, 1, 19, 5, 1, 19, kOne, kOne, 0.2, 1, true},
      {"identity, cut", 2, 7, 7, 200, 40, 1, 200, kThree, kThree, 0.4, 1, true},
  };
  // Results that are pooled.
  const auto pooled = [&](Case c, const lcnn::Axis& rows, const lcnn::Axis& columns) {
    c.pool_rows = rows;
    c.pool_columns = columns;
    cases.push_back(c);
  };
  pooled({"pooled", 1, 9, 12, 4, 5, 1, 3, kThree, kThree, 0.3}, kPool, kPool);
  pooled({"pooled, 2x2", 2, 8, 9, 4, 9, 1, 3, kThree, kThree, 0.3}, {2, 2, 1, 0, 0},
         {2, 2, 1, 0, 0});
  pooled({"pooled, several bands", 2, 60, 101, 3, 20, 1, 3, kThree, kThree, 0.2}, kPool, kPool);
  pooled({"pooled, bands of few filters", 1, 27, 27, 3, 130, 1, 3, kThree, kThree, 0.1}, kPool,
         kPool);
  pooled({"pooled stem", 1, 45, 61, 3, 17, 1, 3, {7, 2, 1, 3, 3}, {7, 2, 1, 3, 3}, 0.2}, kPool,
         kPool);
  pooled({"pooled, one direction", 1, 9, 40, 3, 4, 1, 3, kThree, kThree, 0.5}, {1, 1, 1, 0, 0},
         {4, 3, 1, 3, 1});
  pooled({"pooled, stride above the kernel", 2, 23, 14, 3, 4, 1, 3, kThree, kThree, 0.5},
         {2, 5, 1, 1, 0}, {3, 4, 1, 0, 2});
  pooled({"pooled, too wide for bands", 2, 12, 700, 2, 17, 1, 2, kThree, kThree, 0.3},
         {9, 2, 1, 4, 4}, kPool);
  pooled({"pooled, too wide, empty dictionary", 1, 12, 700, 2, 17, 1, 0, kThree, kThree, 0},
         {9, 2, 1, 4, 4}, kPool);
  pooled({"pooled, one pixel", 1, 1, 1, 19, 5, 1, 9, kOne, kOne, 0.5}, kPool, kPool);
  pooled({"pooled, groups", 3, 7, 7, 6, 8, 2, 3, kThree, kThree, 0.5}, kPool, kPool);
  pooled({"pooled, cut", 2, 14, 30, 4, 28, 1, 9, kThree, kThree, 0.5}, kPool, kPool);
  pooled({"pooled, cut, bands of some filters", 1, 27, 40, 4, 150, 1, 25, kThree, kThree, 0.3},
         kPool, kPool);
  pooled({"pooled, cut, too wide for bands", 1, 12, 700, 4, 28, 1, 9, kThree, kThree, 0.5},
         {9, 2, 1, 4, 4}, kPool);
  pooled({"pooled, shared by 8", 1, 12, 40, 5, 21, 1, 11, kThree, kThree, 0.2, 8}, kPool, kPool);
  pooled({"pooled, identity", 5, 40, 40, 14, 5, 1, 14, kThree, kThree, 0.1, 1, true}, kPool, kPool);
  pooled({"pooled, work for several threads", 2, 40, 41, 40, 24, 1, 20, kThree, kThree, 0.3}, kPool,
         kPool);
  // Rows of every remainder modulo the register blocks, planes of every remainder modulo the tiles:
  // one row below, at and above one vector, one tile and two tiles of each instruction set.
  for (int64_t k = 1; k <= 9; ++k)
    cases.push_back({"k rows", 1, 3, 5, 3, 2, 1, k, kOne, kOne, 0.7});
  for (const int64_t pixels : {1,  3,  4,  5,  7,  8,  9,  15,  16,  17,  31,  32,  33,  47, 48,
                               49, 63, 64, 65, 95, 96, 97, 112, 127, 128, 129, 255, 256, 257}) {
    cases.push_back({"pixels", 1, 1, pixels, 3, 2, 1, 3, kOne, kOne, 0.7});
    cases.push_back({"pixels with border", 1, 2, pixels, 3, 2, 1, 3, kThree, kThree, 0.7});
  }
  return cases;
}

inline lcnn::LookupConvShape ShapeOf(const Case& c) {
  constexpr float kMax = std::numeric_limits<float>::max();
  return {c.channels, c.filters, c.group, c.dictionary, c.rows,        c.columns,
          -kMax,      kMax,      false,   c.pool_rows,  c.pool_columns};
}

#endif  // LCNN_TESTS_CASES_H_
