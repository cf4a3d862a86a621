// Elementwise kernels; see lanes.h for why nothing here is shared. Tails go through a padded vector, so that an
// element's bits do not depend on its place.
#pragma once
#include "kernels/isa/lanes.h"

namespace kvgrind::kernels {
namespace {

// sigmoid(g) from e = e^(−|g|) ≤ 1: nothing overflows on either side.
template <class L>
inline typename L::F silu_mul_lanes(typename L::F gate, typename L::F up) {
  const auto e = exp_nonpositive<L>(L::zero() - L::abs(gate));
  const auto numerator = L::if_less(gate, L::zero(), e, L::set(1.0f));
  return gate * (numerator / (L::set(1.0f) + e)) * up;
}

inline void silu_mul_any(const float* gate, const float* up, float* out, std::int64_t n) {
  using L = Widest;
  std::int64_t i = 0;
  for (; i + L::width <= n; i += L::width) L::store(out + i, silu_mul_lanes<L>(L::load(gate + i), L::load(up + i)));
  if (i == n) return;
  float a[L::width] = {}, b[L::width] = {};
  for (std::int64_t t = i; t < n; ++t) a[t - i] = gate[t], b[t - i] = up[t];
  L::store(a, silu_mul_lanes<L>(L::load(a), L::load(b)));
  for (std::int64_t t = i; t < n; ++t) out[t] = a[t - i];
}

template <class Operation>
inline void map_any(const float* x, float* out, std::int64_t n) {
  using L = Widest;
  float padded[L::width];
  for (std::int64_t i = 0; i < n; i += L::width) {
    const std::int64_t used = n - i < L::width ? n - i : L::width;
    for (std::int64_t t = 0; t < L::width; ++t) padded[t] = t < used ? x[i + t] : 0.0f;
    L::store(padded, Operation::apply(L::load(padded)));
    for (std::int64_t t = 0; t < used; ++t) out[i + t] = padded[t];
  }
}

struct ExpNonpositive {
  static Widest::F apply(Widest::F x) { return exp_nonpositive<Widest>(x); }
};
struct Tanh {
  static Widest::F apply(Widest::F x) { return tanh_lanes<Widest>(x); }
};

}  // namespace
}  // namespace kvgrind::kernels
