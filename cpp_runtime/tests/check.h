// A test is a function of CHECKs; main runs them and returns TestResult().
#ifndef LCNN_TESTS_CHECK_H_
#define LCNN_TESTS_CHECK_H_

#include <cstdio>
#include <stdexcept>
#include <string>

inline int g_checks = 0;
inline int g_failures = 0;

inline void Report(bool ok, const char* file, int line, const std::string& text) {
  ++g_checks;
  if (ok) return;
  // The first failures tell; a broken kernel would print millions.
  if (++g_failures <= 20) std::printf("%s:%d: failed: %s\n", file, line, text.c_str());
}

#define CHECK(condition) Report((condition), __FILE__, __LINE__, #condition)
#define CHECK_TEXT(condition, text) Report((condition), __FILE__, __LINE__, (text))

// Passes when the statement throws std::invalid_argument whose text contains `fragment`.
#define CHECK_THROWS(statement, fragment)                                                     \
  try {                                                                                       \
    statement;                                                                                \
    Report(false, __FILE__, __LINE__, #statement " did not throw");                           \
  } catch (const std::invalid_argument& error) {                                              \
    Report(std::string(error.what()).find(fragment) != std::string::npos, __FILE__, __LINE__, \
           std::string("'") + error.what() + "' lacks '" + (fragment) + "'");                 \
  }

inline int TestResult() {
  std::printf("%d checks, %d failures\n", g_checks, g_failures);
  return g_failures == 0 && g_checks > 0 ? 0 : 1;
}

#endif  // LCNN_TESTS_CHECK_H_
