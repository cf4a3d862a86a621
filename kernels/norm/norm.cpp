#include "kernels/norm/norm.h"

#include <cassert>
#include <cmath>

namespace kvgrind::kernels {
namespace {

// Sixteen running sums, added pairwise: the same order for every row and build, and one the compiler can vectorise.
float sum_of_squares(const float* x, std::int64_t stride, std::int64_t n) {
  constexpr int lanes = 16;
  float sum[lanes] = {};
  std::int64_t i = 0;
  if (stride == 1) {
    for (; i + lanes <= n; i += lanes)
      for (int lane = 0; lane < lanes; ++lane) sum[lane] += x[i + lane] * x[i + lane];
  } else {
    for (; i + lanes <= n; i += lanes)
      for (int lane = 0; lane < lanes; ++lane) sum[lane] += x[(i + lane) * stride] * x[(i + lane) * stride];
  }
  for (int lane = 0; i < n; ++i, ++lane) sum[lane] += x[i * stride] * x[i * stride];
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
  return sum[0];
}

double sum_of_squares_ref(View<const float, 1> x) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < x.extent(0); ++i) sum += static_cast<double>(x(i)) * static_cast<double>(x(i));
  return sum;
}

}  // namespace

void rms_norm(View<const float, 2> x, std::span<const float> w, float eps, View<float, 2> out) {
  const std::int64_t n = x.extent(0), hidden = x.extent(1);
  assert(out.extents() == x.extents() && static_cast<std::int64_t>(w.size()) == hidden);
  for (std::int64_t t = 0; t < n; ++t) {
    const float* in = x.data() + t * x.stride(0);
    float* to = out.data() + t * out.stride(0);
    const float mean = sum_of_squares(in, x.stride(1), hidden) / static_cast<float>(hidden);
    const float factor = 1.0f / std::sqrt(mean + eps);
    const float* weight = w.data();
    if (x.stride(1) == 1 && out.stride(1) == 1) {
      for (std::int64_t h = 0; h < hidden; ++h) to[h] = in[h] * factor * weight[h];
    } else {
      for (std::int64_t h = 0; h < hidden; ++h) to[h * out.stride(1)] = in[h * x.stride(1)] * factor * weight[h];
    }
  }
}

void l2_norms(View<const float, 2> x, std::span<float> norm) {
  assert(static_cast<std::int64_t>(norm.size()) == x.extent(0));
  for (std::int64_t t = 0; t < x.extent(0); ++t)
    norm[static_cast<std::size_t>(t)] = std::sqrt(sum_of_squares(x.data() + t * x.stride(0), x.stride(1), x.extent(1)));
}

void rms_norm_ref(View<const float, 2> x, std::span<const float> w, float eps, View<float, 2> out) {
  for (std::int64_t t = 0; t < x.extent(0); ++t) {
    const double mean = sum_of_squares_ref(x[t]) / static_cast<double>(x.extent(1));
    const double factor = 1.0 / std::sqrt(mean + static_cast<double>(eps));
    for (std::int64_t h = 0; h < x.extent(1); ++h)
      out(t, h) = static_cast<float>(static_cast<double>(x(t, h)) * factor *
                                     static_cast<double>(w[static_cast<std::size_t>(h)]));
  }
}

void l2_norms_ref(View<const float, 2> x, std::span<float> norm) {
  for (std::int64_t t = 0; t < x.extent(0); ++t)
    norm[static_cast<std::size_t>(t)] = static_cast<float>(std::sqrt(sum_of_squares_ref(x[t])));
}

}  // namespace kvgrind::kernels
