#include "kernels/isa/isa.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "kernels/isa/scratch.h"
#include "tests/kernels/kernel_check.h"

namespace kvgrind::tests {
namespace {

double worst_relative_error(void (*function)(const float*, float*, std::int64_t), double (*exact)(double), float from,
                            float to, std::int64_t steps) {
  std::vector<float> x, found(static_cast<std::size_t>(steps));
  for (std::int64_t i = 0; i < steps; ++i)
    x.push_back(from + (to - from) * static_cast<float>(i) / static_cast<float>(steps - 1));
  function(x.data(), found.data(), steps);
  double worst = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = exact(static_cast<double>(x[i]));
    if (expected == 0.0) continue;
    const double error = std::abs(static_cast<double>(found[i]) / expected - 1.0);
    if (!(error <= worst)) worst = error;  // a NaN stays
  }
  return worst;
}

TEST(Isa, ExpIsWithinOneMillionth) {
  at_every_isa([] {
    const auto exp = kernels::current_kernels().exp_nonpositive;
    EXPECT_LE(worst_relative_error(exp, std::exp, -87.25f, 0.0f, 3000001), 3e-7);
    EXPECT_LE(worst_relative_error(exp, std::exp, -1.0f, 0.0f, 1000001), 3e-7);
  });
}

TEST(Isa, ExpAtTheEdges) {
  at_every_isa([] {
    const float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> x = {0.0f, -0.0f, -1e-30f, -87.29f, -88.0f, -1000.0f, -3e38f, -infinity, std::nanf("5")};
    std::vector<float> found(x.size());
    kernels::current_kernels().exp_nonpositive(x.data(), found.data(), static_cast<std::int64_t>(x.size()));
    EXPECT_EQ(found[0], 1.0f);
    EXPECT_EQ(found[1], 1.0f);
    EXPECT_EQ(found[2], 1.0f);
    EXPECT_GT(found[3], 0.0f);
    for (const std::size_t i : {4, 5, 6, 7}) EXPECT_EQ(found[i], 0.0f) << x[i];
    EXPECT_TRUE(std::isnan(found[8]));
  });
}

TEST(Isa, TanhIsWithinOneMillionth) {
  at_every_isa([] {
    const auto tanh = kernels::current_kernels().tanh;
    EXPECT_LE(worst_relative_error(tanh, std::tanh, -12.0f, 12.0f, 1000001), 1e-6);
    EXPECT_LE(worst_relative_error(tanh, std::tanh, 1e-6f, 1e-3f, 100001), 1e-6);
    const float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> x = {infinity, -infinity, -0.0f, std::nanf("")};
    std::vector<float> found(4);
    tanh(x.data(), found.data(), 4);
    EXPECT_EQ(found[0], 1.0f);
    EXPECT_EQ(found[1], -1.0f);
    EXPECT_TRUE(found[2] == 0.0f && std::signbit(found[2]));
    EXPECT_TRUE(std::isnan(found[3]));
  });
}

TEST(Isa, LevelsAreOrderedAndNamed) {
  const std::vector<kernels::Isa> isas = kernels::available_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas[0], kernels::Isa::baseline);
  EXPECT_EQ(kernels::isa_name(kernels::Isa::avx512), "avx512");
}

TEST(Scratch, IsAlignedSeparateAndReused) {
  std::byte* before = nullptr;
  {
    kernels::Scratch a(1000), b(1000), empty;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.as<float>()) % 64, 0u);
    EXPECT_NE(a.as<std::byte>(), b.as<std::byte>());
    EXPECT_EQ(empty.as<std::byte>(), nullptr);
    std::memset(a.as<std::byte>(), 1, 1000);
    std::memset(b.as<std::byte>(), 2, 1000);
    EXPECT_EQ(a.as<char>()[999], 1);
    EXPECT_EQ(a.grow(900), a.as<std::byte>());
    before = b.grow(300000);
    std::memset(before, 3, 300000);
  }
  const kernels::Scratch again(299000);
  EXPECT_EQ(again.as<std::byte>(), before);
}

}  // namespace
}  // namespace kvgrind::tests
