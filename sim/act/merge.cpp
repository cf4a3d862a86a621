// Dropped slots are folded into kept ones, with weights and counts.
//   to       similar: the kept slot with the most similar key (cosine u; ties: lower position); nearest: by position
//            (ties: lower); assigned: the one that select named, else it is dropped
//   least    u below which a slot is dropped without merging; threshold=moving (D2O): τ = mean of u over all dropped
//            slots and heads of the layer, then ½τ + ½ mean u; the i-th dropped slots of all heads are merged together
//            when the mean of their u reaches τ
//   reach r  only the best (r − 1) · kept of the dropped slots are merged; 0 = all
//   when     moment: merges at the compression moment only, later slots are dropped
//   weight   with target t and merged e (n of them), of K and of V (keys=off: V only)
//            mean     (t + Σ e)/(1 + n)            cosine  (t + Σ u e)/(1 + n)      half    (t + Σ ½(e + t))/(1 + n)
//            affine   (t + Σ w e)/(1 + Σ w), w = max((u + 1)/2, 1e-6)
//            count    Σ count x / Σ count          score   Σ s x / Σ s, s ≥ 0
//            gaussian Σ g x / Σ g, g = exp(−‖k_t − k_x‖² / 2σ²), σ = mean over t and all e of ‖k_t − k_x‖ / √2
//   count_bias: merged slots stand for as many tokens as they hold (log count on the logits)
//   source: arXiv 2406.13035, 2407.18121, 2407.08454, 2412.08521, 2506.11418; Zefan-Cai/KVCache-Factory (half, affine)
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <map>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::acts {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Merged {
  std::int32_t from = 0, into = -1;
  double cosine = 0;
};

double cosine(const GroupSlots& slots, std::int64_t a, std::int64_t b) {
  const std::int64_t dim = slots.head_dim;
  const Eigen::Map<const Eigen::VectorXf> x(slots.k.data() + a * dim, dim), y(slots.k.data() + b * dim, dim);
  return static_cast<double>(x.dot(y)) / std::max(static_cast<double>(x.norm()) * y.norm(), 1e-12);
}

// Every dropped slot with its most similar kept one, by slot.
std::vector<Merged> most_similar(const GroupSlots& slots, const std::vector<std::int32_t>& kept,
                                 const std::vector<std::int32_t>& dropped) {
  const std::int64_t dim = slots.head_dim;
  const auto take = [&](const std::vector<std::int32_t>& which) {
    Rows out(static_cast<Eigen::Index>(which.size()), dim);
    for (std::size_t i = 0; i < which.size(); ++i)
      out.row(static_cast<Eigen::Index>(i)) =
          Eigen::Map<const Eigen::RowVectorXf>(slots.k.data() + which[i] * dim, dim);
    out.array().colwise() /= out.rowwise().norm().cwiseMax(1e-12f).array();
    return out;
  };
  std::vector<Merged> out;
  if (kept.empty() || dropped.empty()) return out;
  const Rows targets = take(kept), sources = take(dropped);
  constexpr std::int64_t block = 256;
  for (std::int64_t first = 0; first < sources.rows(); first += block) {
    const std::int64_t n = std::min<std::int64_t>(block, sources.rows() - first);
    const Rows u = sources.middleRows(first, n) * targets.transpose();
    for (std::int64_t i = 0; i < n; ++i) {
      Eigen::Index at = 0;
      const double best = u.row(i).maxCoeff(&at);
      out.push_back({dropped[static_cast<std::size_t>(first + i)], kept[static_cast<std::size_t>(at)], best});
    }
  }
  return out;
}

std::vector<std::int32_t> dropped_slots(const ActContext& context) {
  std::vector<std::int32_t> out;
  const auto& kept = context.selection.kept;
  for (std::int32_t j = 0; j < static_cast<std::int32_t>(context.slots().size()); ++j)
    if (!std::binary_search(kept.begin(), kept.end(), j)) out.push_back(j);
  return out;
}

std::vector<Merged> candidates(const ActContext& context) {
  const GroupSlots& slots = context.slots();
  const auto& kept = context.selection.kept;
  std::vector<std::int32_t> dropped = dropped_slots(context);
  const double reach = context.params.number("reach");
  if (reach > 0) {
    const auto count =
        static_cast<std::size_t>(std::floor(std::max(0.0, reach - 1) * static_cast<double>(kept.size()) + 1e-9));
    std::vector<std::int32_t> next;
    for (std::size_t r = kept.size(); r < context.selection.order.size() && next.size() < count; ++r)
      next.push_back(context.selection.order[r]);
    std::sort(next.begin(), next.end());
    dropped = std::move(next);
  }
  const std::string& to = context.params.word("to");
  if (to == "similar") return most_similar(slots, kept, dropped);
  std::vector<Merged> out;
  for (const std::int32_t e : dropped) {
    std::int32_t target = -1;
    if (to == "assigned") {
      if (!context.selection.into.empty()) target = context.selection.into[static_cast<std::size_t>(e)];
    } else if (!kept.empty()) {
      const auto position = [&](std::int32_t slot) { return slots.position[static_cast<std::size_t>(slot)]; };
      const auto after = std::lower_bound(kept.begin(), kept.end(), e);
      if (after == kept.end())
        target = kept.back();
      else if (after == kept.begin())
        target = kept.front();
      else
        target = position(e) - position(*(after - 1)) <= position(*after) - position(e) ? *(after - 1) : *after;
    }
    if (target >= 0) out.push_back({e, target, cosine(slots, e, target)});
  }
  return out;
}

// What D2O's moving threshold lets through, by the place of a slot among the dropped ones.
using Allowed = std::vector<char>;

std::shared_ptr<const void> prepare(std::span<const ActContext> contexts) {
  if (contexts.empty() || contexts[0].params.word("threshold") != "moving") return nullptr;
  std::vector<double> sum;
  std::vector<std::int64_t> heads;
  double all = 0;
  std::int64_t n = 0;
  for (const ActContext& context : contexts) {
    const std::vector<Merged> list = candidates(context);
    sum.resize(std::max(sum.size(), list.size()), 0.0);
    heads.resize(sum.size(), 0);
    for (std::size_t i = 0; i < list.size(); ++i) {
      sum[i] += list[i].cosine;
      ++heads[i];
      all += list[i].cosine;
      ++n;
    }
  }
  auto allowed = std::make_shared<Allowed>(sum.size());
  if (n == 0) return allowed;
  const auto mean = static_cast<float>(all / static_cast<double>(n));
  float tau = mean;
  const auto held = contexts[0].memory.find("merge threshold");
  if (held != contexts[0].memory.end()) tau = 0.5f * held->second[0] + 0.5f * mean;
  for (const ActContext& context : contexts) context.memory["merge threshold"] = {tau};
  for (std::size_t i = 0; i < sum.size(); ++i)
    (*allowed)[i] = sum[i] / static_cast<double>(heads[i]) >= static_cast<double>(tau);
  return allowed;
}

// Weights of the target and of what is merged into it.
std::vector<double> weights(const ActContext& context, std::int32_t target, const std::vector<Merged>& list) {
  const GroupSlots& slots = context.slots();
  const std::string& how = context.params.word("weight");
  const auto n = static_cast<double>(list.size());
  std::vector<double> w{1.0};
  double divisor = 1 + n;
  const auto normalise = [&] {
    divisor = 0;
    for (const double x : w) divisor += x;
  };
  if (how == "gaussian") {
    const std::int64_t dim = slots.head_dim;
    const Eigen::Map<const Eigen::VectorXf> k(slots.k.data() + target * dim, dim);
    std::vector<double> distance;
    double sum = 0;
    for (const Merged& e : list)
      sum += distance.emplace_back(
          (k - Eigen::Map<const Eigen::VectorXf>(slots.k.data() + e.from * dim, dim)).cast<double>().norm());
    const double sigma = sum / (1 + n) / std::sqrt(2.0);
    for (const double d : distance) w.push_back(sigma > 0 ? std::exp(-d * d / (2 * sigma * sigma)) : 1.0);
    normalise();
  } else if (how == "count") {
    w[0] = slots.count[static_cast<std::size_t>(target)];
    for (const Merged& e : list) w.push_back(slots.count[static_cast<std::size_t>(e.from)]);
    normalise();
  } else if (how == "score") {
    const auto& s = context.columns.s;
    double top = 0;
    for (const float x : s)
      if (std::isfinite(x)) top = std::max(top, static_cast<double>(x));
    const auto value = [&](std::int32_t slot) {
      const float x = s[static_cast<std::size_t>(slot)];
      return std::isfinite(x) ? std::max(1e-12, static_cast<double>(x)) : x > 0 ? std::max(top, 1e-12) : 1e-12;
    };
    w[0] = value(target);
    for (const Merged& e : list) w.push_back(value(e.from));
    normalise();
  } else if (how == "affine") {
    for (const Merged& e : list) w.push_back(std::max(0.5 * (e.cosine + 1), 1e-6));
    normalise();
  } else if (how == "half") {
    w[0] = 1 + 0.5 * n;
    w.insert(w.end(), list.size(), 0.5);
  } else if (how == "cosine") {
    for (const Merged& e : list) w.push_back(e.cosine);
  } else {
    w.insert(w.end(), list.size(), 1.0);
  }
  for (double& x : w) x /= divisor;
  return w;
}

void act(const ActContext& context, GroupPlan& plan) {
  if (context.params.word("when") == "moment" && !context.moment.compress) return;
  const auto* allowed = static_cast<const Allowed*>(context.layer_state.get());
  const double least = context.params.number("least");
  const std::vector<Merged> list = candidates(context);
  std::map<std::int32_t, std::vector<Merged>> by_target;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (allowed ? !(*allowed)[i] : list[i].cosine < least && context.params.word("to") != "assigned") continue;
    by_target[list[i].into].push_back(list[i]);
  }
  const bool keys = context.params.boolean("keys");
  for (const auto& [target, merged] : by_target) {
    const std::vector<double> w = weights(context, target, merged);
    const auto own = static_cast<float>(w[0]);
    plan.merges.push_back({target, target, keys ? own : 1.0f, own, 0.0f});
    for (std::size_t i = 0; i < merged.size(); ++i) {
      const auto weight = static_cast<float>(w[i + 1]);
      plan.merges.push_back({merged[i].from, target, keys ? weight : 0.0f, weight, 1.0f});
    }
  }
}

}  // namespace

extern const ActRow merge;
const ActRow merge = {
    .name = "merge",
    .source = "arXiv 2406.13035, 2407.18121, 2407.08454, 2412.08521, 2506.11418",
    .help = "dropped slots are folded into kept ones, with weights and counts",
    .params = {{"to",
                ParamType::word,
                "similar",
                "the most similar key, the nearest position, or the slot that select named",
                -1e300,
                1e300,
                {"similar", "nearest", "assigned"}},
               {"weight",
                ParamType::word,
                "mean",
                "how much of a slot goes in",
                -1e300,
                1e300,
                {"mean", "cosine", "half", "affine", "count", "score", "gaussian"}},
               {"keys", ParamType::boolean, "on", "merge keys too; off: values alone"},
               {"least", ParamType::number, "-1", "cosine below which a slot is dropped without merging", -1, 1},
               {"threshold",
                ParamType::word,
                "fixed",
                "fixed: least; moving: the mean cosine of the layer so far",
                -1e300,
                1e300,
                {"fixed", "moving"}},
               {"reach", ParamType::number, "0", "slots considered for each kept one, with it; 0 = all", 0, 1e9},
               {"when",
                ParamType::word,
                "all",
                "moment: later slots are dropped, not merged",
                -1e300,
                1e300,
                {"all", "moment"}},
               {"count_bias", ParamType::boolean, "off", "merged slots stand for as many tokens as they hold"}},
    .needs = {},
    .act = act,
    .prepare = prepare,
};

}  // namespace kvgrind::sim::acts
