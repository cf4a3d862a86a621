// CurDKV: tokens whose key and value both carry energy, relative to their neighbourhood.
//   in   k, v of the slots [n, D]; a = ‖k‖², b = ‖v‖², each divided by its sum over consecutive windows of `window`
//   slots out  s [slots] = a·b | a | b | (a+b)/2, over the sum of all slots; the first `sinks` slots = 1 deviations: no
//   random projection (kvpress has it off); a window without energy counts as uniform instead of NaN source: arXiv
//   2509.15038; NVIDIA/kvpress cur_press.py
#include <algorithm>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

std::vector<double> relative_energy(View<const float, 2> x, std::int64_t window) {
  const std::int64_t n = x.extent(0), dim = x.extent(1);
  std::vector<double> out(static_cast<std::size_t>(n));
  for (std::int64_t begin = 0; begin < n; begin += window) {
    const std::int64_t end = std::min(n, begin + window);
    double total = 0;
    for (std::int64_t j = begin; j < end; ++j) {
      double& energy = out[static_cast<std::size_t>(j)];
      for (std::int64_t d = 0; d < dim; ++d) energy += static_cast<double>(x(j, d)) * static_cast<double>(x(j, d));
      total += energy;
    }
    for (std::int64_t j = begin; j < end; ++j) {
      double& energy = out[static_cast<std::size_t>(j)];
      energy = total > 0 ? energy / total : 1.0 / static_cast<double>(end - begin);
    }
  }
  return out;
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t window = context.params.integer("window");
  const std::vector<double> a = relative_energy(slots.keys(), window), b = relative_energy(slots.values(), window);
  const std::string& join = context.params.word("join");
  std::vector<double> s(a.size());
  double total = 0;
  for (std::size_t j = 0; j < s.size(); ++j) {
    s[j] = join == "product" ? a[j] * b[j] : join == "key" ? a[j] : join == "value" ? b[j] : (a[j] + b[j]) / 2;
    total += s[j];
  }
  const auto sinks = static_cast<std::size_t>(context.params.integer("sinks"));
  for (std::size_t j = 0; j < s.size(); ++j)
    out.s[j] = j < sinks ? 1.0f : static_cast<float>(total > 0 ? s[j] / total : 0);
}

}  // namespace

extern const ScoreRow cur_energy;
const ScoreRow cur_energy = {
    .name = "cur_energy",
    .source = "arXiv 2509.15038; NVIDIA/kvpress cur_press.py",
    .help = "energy of key and value relative to the neighbourhood",
    .params = {{"window", ParamType::integer, "16", "slots of a neighbourhood", 1, 1e6},
               {"sinks", ParamType::integer, "4", "first slots, best score", 0, 1e6},
               {"join",
                ParamType::word,
                "product",
                "how key and value join",
                -1e300,
                1e300,
                {"product", "key", "value", "mean"}}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
