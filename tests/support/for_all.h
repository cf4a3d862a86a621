// Randomised tests that print their seed: for_all(n, check) calls check(rng) n times with a generator per case.
// KVGRIND_TEST_SEED overrides the base seed.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <string>

namespace kvgrind::tests {

inline std::uint64_t base_seed(std::uint64_t fallback) {
  const char* text = std::getenv("KVGRIND_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : fallback;
}

template <class Check>
void for_all(std::uint64_t seed, int n, Check&& check) {
  const std::uint64_t base = base_seed(seed);
  for (int i = 0; i < n; ++i) {
    SCOPED_TRACE("case " + std::to_string(i) + " of KVGRIND_TEST_SEED=" + std::to_string(base));
    std::mt19937_64 rng(base * 1000003u + static_cast<std::uint64_t>(i));
    check(rng);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace kvgrind::tests
