// Outliers by geometry and importance by local attention, blended.
//   the first and last tokens are left out; on the others, s = lambda · z(geometry) + z(attention), z over all cache
//   heads of the layer; those left out take the layer's largest s (ties: position), or +inf (protect=always) lambda <
//   0: the share removed source: arXiv 2507.08143; vnchari/compactor-vllm compactor.py; NVIDIA/kvpress
//   compactor_press.py
#include <numeric>

#include "core/error.h"
#include "sim/engine/layer_z.h"
#include "sim/engine/score_support.h"
#include "sim/engine/slot_part.h"

namespace kvgrind::sim::scores {
namespace {

std::pair<std::int64_t, std::int64_t> inner_slots(const Params& params, std::int64_t n) {
  const std::int64_t first = std::min(params.integer("first"), n);
  return {first, n - std::min(params.integer("last"), n - first)};
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const auto [begin, end] = inner_slots(context.params, slots.size());
  std::vector<std::int32_t> index(static_cast<std::size_t>(end - begin));
  std::iota(index.begin(), index.end(), static_cast<std::int32_t>(begin));
  std::vector<float>& geometry = out.extra["geometry"];
  std::vector<float>& attention = out.extra["attention"];
  if (begin < end) {
    const GroupSlots part = slots_at(slots, index);
    geometry = evaluate_part(context, context.params.call("geometry"), part, context.moment.tokens).s;
    attention = evaluate_part(context, context.params.call("attention"), part, context.moment.tokens).s;
  }
  const auto base = static_cast<double>(context.base_tokens());
  const double reach = static_cast<double>(context.cache.reach(context.layer));
  const Amount& amount = *context.facts.amount;
  out.figures["removed"] = amount.kind == Amount::Kind::removed    ? amount.value
                           : amount.kind == Amount::Kind::fraction ? 1 - amount.value
                                                                   : 1 - std::min(1.0, base / std::max(1.0, reach));
}

void join(const JoinContext& context) {
  each_layer_of(context.groups, [&](std::span<const JoinGroup> layer) {
    std::vector<std::vector<float>*> geometry, attention;
    for (const JoinGroup& group : layer) {
      geometry.push_back(&group.columns->extra["geometry"]);
      attention.push_back(&group.columns->extra["attention"]);
    }
    z_scores(geometry);
    z_scores(attention);
    float top = -std::numeric_limits<float>::infinity();
    for (const JoinGroup& group : layer) {
      Columns& columns = *group.columns;
      const double given = context.params.number("lambda");
      const double lambda = given < 0 ? columns.figures["removed"] : given;
      const auto [begin, end] = inner_slots(context.params, group.slots->size());
      for (std::int64_t j = begin; j < end; ++j) {
        const auto at = static_cast<std::size_t>(j - begin);
        const auto s = static_cast<float>(lambda * static_cast<double>(columns.extra["geometry"][at]) +
                                          static_cast<double>(columns.extra["attention"][at]));
        columns.s[static_cast<std::size_t>(j)] = s;
        if (s > top) top = s;
      }
    }
    if (context.params.word("protect") == "always" || !std::isfinite(top)) top = always_kept;
    for (const JoinGroup& group : layer) {
      const auto [begin, end] = inner_slots(context.params, group.slots->size());
      auto& s = group.columns->s;
      std::fill(s.begin(), s.begin() + begin, top);
      std::fill(s.begin() + end, s.end(), top);
      group.columns->extra.clear();  // of the inner slots alone
    }
  });
}

}  // namespace

extern const ScoreRow compactor;
const ScoreRow compactor = {
    .name = "compactor",
    .source = "arXiv 2507.08143; NVIDIA/kvpress compactor_press.py",
    .help = "outliers by geometry blended with importance by local attention",
    .params = {{"lambda", ParamType::number, "-1", "weight of the geometry; below 0: the share removed", -1, 1e6},
               {"first", ParamType::integer, "8", "first slots, left out and kept", 0, 1e6},
               {"last", ParamType::integer, "4", "last slots, left out and kept", 0, 1e6},
               {"geometry", ParamType::call, "leverage", "score of outliers", -1e300, 1e300, {"score"}},
               {"attention", ParamType::call, "noncausal_attention", "score of importance", -1e300, 1e300, {"score"}},
               {"protect",
                ParamType::word,
                "ties",
                "what is left out: ties with the best of the layer, or is always kept",
                -1e300,
                1e300,
                {"ties", "always"}}},
    .needs = {},
    .score = score,
    .join = join,
    .by_amount = true,
};

}  // namespace kvgrind::sim::scores
