#include <cassert>
#include <cmath>
#include <limits>
#include <vector>

#include "core/array.h"
#include "kernels/attention/attention.h"

namespace kvgrind::kernels {
namespace {

bool visible(const AttentionParams& a, std::int64_t i, std::int64_t j) {
  const std::int64_t distance = a.q_position[static_cast<std::size_t>(i)] - a.k_position[static_cast<std::size_t>(j)];
  return distance >= 0 && (a.window == 0 || distance < a.window);
}

double logit(const AttentionParams& a, std::int64_t i, std::int64_t j) {
  double dot = 0.0;
  for (std::int64_t d = 0; d < a.q.extent(1); ++d)
    dot += static_cast<double>(a.q(i, d)) * static_cast<double>(a.k(j, d));
  double s = static_cast<double>(a.scale) * dot;
  if (a.softcap != 0.0f) s = static_cast<double>(a.softcap) * std::tanh(s / static_cast<double>(a.softcap));
  return a.log_count ? s + static_cast<double>(a.log_count[j]) : s;
}

}  // namespace

void attention_ref(const AttentionParams& a) {
  const std::int64_t n_k = a.k.extent(0), dims = a.q.extent(1);
  constexpr double minus_infinity = -std::numeric_limits<double>::infinity();
  for_attention_blocks(a.q_position, [&](std::int64_t begin, std::int64_t count) {
    const std::int64_t end = begin + count;
    Array<float, 2> rows({count, n_k});
    for (std::int64_t i = begin; i < end; ++i) {
      std::vector<double> p(static_cast<std::size_t>(n_k), minus_infinity);
      double largest = a.sink ? static_cast<double>(*a.sink) : minus_infinity;
      for (std::int64_t j = 0; j < n_k; ++j) {
        if (!visible(a, i, j)) continue;
        p[static_cast<std::size_t>(j)] = logit(a, i, j);
        if (!(p[static_cast<std::size_t>(j)] <= largest)) largest = p[static_cast<std::size_t>(j)];
      }
      double sum = a.sink ? std::exp(static_cast<double>(*a.sink) - largest) : 0.0;
      for (std::int64_t j = 0; j < n_k; ++j)
        if (visible(a, i, j)) sum += std::exp(p[static_cast<std::size_t>(j)] - largest);
      const bool nothing = largest == minus_infinity;
      const double lse = nothing ? minus_infinity : largest + std::log(sum);
      if (a.lse) a.lse[i] = static_cast<float>(lse);
      for (std::int64_t j = 0; j < n_k; ++j) {
        double& value = p[static_cast<std::size_t>(j)];
        value = nothing || !visible(a, i, j) ? 0.0 : std::exp(value - largest) / sum;
      }
      for (std::int64_t j = 0; j < n_k; ++j) rows(i - begin, j) = static_cast<float>(p[static_cast<std::size_t>(j)]);
      if (!a.out.data()) continue;
      for (std::int64_t d = 0; d < dims; ++d) {
        double o = 0.0;
        for (std::int64_t j = 0; j < n_k; ++j)
          if (visible(a, i, j)) o += p[static_cast<std::size_t>(j)] * static_cast<double>(a.v(j, d));
        a.out(i, d) = static_cast<float>(nothing ? 0.0 : o);
      }
    }
    if (a.probabilities) a.probabilities(begin, rows.view());
  });
}

}  // namespace kvgrind::kernels
