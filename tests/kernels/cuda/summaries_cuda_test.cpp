// What a device sums over queries and probabilities for a trace, against plain loops. Skips without a device.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/attention/attention_cuda.h"
#include "kernels/moments/query_moments_cuda.h"
#include "tests/kernels/cuda/on_device.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

class SummariesCuda : public OnDevice {};

TEST_F(SummariesCuda, QueryMomentsEqualPlainSumsAndChunksChangeNothing) {
  for_all(91, cases(12), [&](std::mt19937_64& rng) {
    const auto pick = [&rng](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(rng);
    };
    const DType dtype = pick(0, 1) ? DType::bf16 : DType::f32;
    const std::int64_t Hq = pick(1, 5), D = pick(0, 1) ? 12 * pick(1, 4) : 64, n = pick(1, 200), first = pick(0, 130);
    const std::int64_t half = pick(0, D / 4) + D / 4, rest = (D - 2 * half) / 2;
    SCOPED_TRACE(::testing::Message() << dtype_name(dtype) << " heads " << Hq << " D " << D << " n " << n << " first "
                                      << first << " half " << half);
    const RemoteFloats q(normal_values(rng, n * Hq * D), dtype, stream());
    const std::vector<float> values = q.values();  // as stored
    std::vector<float> table;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t m = 0; m < half; ++m) {
        const double angle = static_cast<double>(first + i) * std::pow(0.7, static_cast<double>(m));
        table.push_back(static_cast<float>(1.25 * std::cos(angle)));
        table.push_back(static_cast<float>(1.25 * std::sin(angle)));
      }
    const Remote<float> angles(table, stream());

    std::vector<double> mean(static_cast<std::size_t>(Hq * D)), modulus(static_cast<std::size_t>(Hq * (D / 2))),
        second(static_cast<std::size_t>(Hq * D * D));
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t h = 0; h < Hq; ++h) {
        std::vector<double> x(values.begin() + (i * Hq + h) * D, values.begin() + (i * Hq + h + 1) * D);
        for (std::int64_t m = 0; m < half; ++m) {
          const double c = table[static_cast<std::size_t>((i * half + m) * 2)],
                       s = table[static_cast<std::size_t>((i * half + m) * 2 + 1)], norm = c * c + s * s;
          const double a = x[static_cast<std::size_t>(m)], b = x[static_cast<std::size_t>(m + half)];
          x[static_cast<std::size_t>(m)] = (a * c + b * s) / norm;
          x[static_cast<std::size_t>(m + half)] = (b * c - a * s) / norm;
        }
        for (std::int64_t d = 0; d < D; ++d) {
          mean[static_cast<std::size_t>(h * D + d)] += x[static_cast<std::size_t>(d)];
          for (std::int64_t e = 0; e < D; ++e)
            second[static_cast<std::size_t>((h * D + d) * D + e)] +=
                x[static_cast<std::size_t>(d)] * x[static_cast<std::size_t>(e)];
        }
        for (std::int64_t d = 0; d < D / 2; ++d)
          modulus[static_cast<std::size_t>(h * (D / 2) + d)] +=
              std::hypot(x[static_cast<std::size_t>(d < half ? d : d + half)],
                         x[static_cast<std::size_t>(d < half ? d + half : d + half + rest)]);
      }

    const auto sums = [&](const std::vector<std::int64_t>& cuts) {
      std::vector<double> zeros(mean.size() + modulus.size() + second.size());
      const Remote<double> out(zeros, stream());
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        kernels::QueryMomentSums a;
        a.dtype = dtype, a.q = static_cast<const char*>(q.data()) + cuts[i] * Hq * D * size_bytes(dtype);
        a.n = cuts[i + 1] - cuts[i], a.first = first + cuts[i], a.query_heads = Hq, a.head_dim = D;
        a.table = angles.data() + cuts[i] * half * 2, a.half = half;
        a.mean = out.data(), a.modulus = out.data() + mean.size();
        a.second = out.data() + mean.size() + modulus.size();
        kernels::query_moments_cuda(a, stream());
      }
      return out.values();
    };
    const std::vector<double> whole = sums({0, n});
    std::vector<double> want = mean;
    want.insert(want.end(), modulus.begin(), modulus.end());
    want.insert(want.end(), second.begin(), second.end());
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_LE(std::fabs(whole[i] - want[i]), 1e-3 + 1e-4 * std::fabs(want[i])) << i;
    const std::int64_t cut = (64 - first % 64) % 64;
    if (cut == 0 || cut >= n) return;
    const std::vector<double> parts = sums({0, cut, n});
    for (std::size_t i = mean.size() + modulus.size(); i < want.size(); ++i)
      ASSERT_NEAR(parts[i], whole[i], 1e-9 * (1.0 + std::fabs(whole[i]))) << i;
  });
}

TEST_F(SummariesCuda, PooledMapsEqualPlainLoops) {
  for_all(92, cases(12), [&](std::mt19937_64& rng) {
    const auto pick = [&rng](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(rng);
    };
    const std::int64_t heads = pick(1, 4), cell = 8 << pick(0, 4), tokens = pick(1, 300);
    const std::int64_t side = (tokens + cell - 1) / cell, stride = side * (side + 1) / 2 + pick(0, 3);
    SCOPED_TRACE(::testing::Message() << "heads " << heads << " cell " << cell << " tokens " << tokens);
    std::vector<float> most(static_cast<std::size_t>(heads * stride)), sum(most.size());
    const Remote<float> got_max(most, stream()), got_sum(sum, stream());
    for (std::int64_t first = 0; first < tokens;) {
      const std::int64_t n = std::min({(first / 64 + 1) * 64 - first, tokens - first, pick(1, 64)}), slots = first + n;
      std::vector<float> p(static_cast<std::size_t>(heads * n * slots));
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t i = 0; i < n; ++i)
          for (std::int64_t j = 0; j <= first + i; ++j) {
            const float x = std::uniform_real_distribution<float>(0, 1)(rng);
            p[static_cast<std::size_t>((h * n + i) * slots + j)] = x;
            const std::int64_t r = (first + i) / cell, c = j / cell;
            const auto at = static_cast<std::size_t>(h * stride + r * (r + 1) / 2 + c);
            most[at] = std::max(most[at], x);
            sum[at] += x;
          }
      const Remote<float> device(p, stream());
      kernels::PooledMap a;
      a.p = device.data(), a.heads = heads, a.n = n, a.first = first, a.slots = slots, a.cell = cell;
      a.max = got_max.data(), a.sum = got_sum.data(), a.stride = stride;
      kernels::pooled_map_cuda(a, stream());
      (void)device.values();  // waits
      first += n;
    }
    EXPECT_EQ(got_max.values(), most);
    const std::vector<float> sums = got_sum.values();
    for (std::size_t i = 0; i < sum.size(); ++i) ASSERT_NEAR(sums[i], sum[i], 1e-4f * (1.0f + sum[i])) << i;
  });
}

}  // namespace
}  // namespace kvgrind::tests
