// Several treatments at once: the kept slots, best first, are cut into shares, each with an act of its own.
//   share of a class = floor(share · kept + 1e-9) slots; a class without one takes all that is left; what no class
//   takes is dropped
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::acts {
namespace {

double share_of(const BoundCall& call) {
  for (const auto& entry : call.params.entries)
    if (std::string_view(entry->row->name) == "share") return entry->number;
  return 0;
}

// Puts what one class decided about its slots into the plan.
void join(const std::vector<std::int32_t>& slots, const GroupPlan& part, GroupPlan& plan) {
  const std::size_t n = plan.keep.size();
  const auto offset = static_cast<std::int8_t>(plan.codecs.size());
  const auto put = [&](const auto& from, auto& to, const auto& missing, auto&& change) {
    if (from.empty()) return;
    if (to.empty()) to.assign(missing.begin(), missing.end());
    for (const std::int32_t slot : slots)
      to[static_cast<std::size_t>(slot)] = change(from[static_cast<std::size_t>(slot)]);
  };
  const auto shifted = [offset](std::int8_t index) {
    return static_cast<std::int8_t>(index < 0 ? index : index + offset);
  };
  const auto same = [](auto value) { return value; };
  for (const std::int32_t slot : slots)
    plan.keep[static_cast<std::size_t>(slot)] = part.keep[static_cast<std::size_t>(slot)];
  put(part.k_codec, plan.k_codec, std::vector<std::int8_t>(n, -1), shifted);
  put(part.v_codec, plan.v_codec, std::vector<std::int8_t>(n, -1), shifted);
  put(part.k_tier, plan.k_tier, part.k_tier, same);
  put(part.v_tier, plan.v_tier, part.v_tier, same);
  put(part.recompute, plan.recompute, std::vector<std::uint8_t>(n, 0), same);
  put(part.rotary, plan.rotary, part.rotary, same);
  plan.merges.insert(plan.merges.end(), part.merges.begin(), part.merges.end());
  plan.codecs.insert(plan.codecs.end(), part.codecs.begin(), part.codecs.end());
}

void act(const ActContext& context, GroupPlan& plan) {
  const std::size_t n = plan.keep.size(), kept = context.selection.kept.size();
  std::vector<std::int32_t> ranked;
  for (const std::int32_t slot : context.selection.order)
    if (plan.keep[static_cast<std::size_t>(slot)]) ranked.push_back(slot);
  std::fill(plan.keep.begin(), plan.keep.end(), std::uint8_t{0});
  std::size_t begin = 0;
  for (const BoundCall& call : context.params.calls("of")) {
    const double share = share_of(call);
    std::size_t count = ranked.size() - begin;
    if (share > 0)
      count = std::min(count, static_cast<std::size_t>(std::floor(share * static_cast<double>(kept) + 1e-9)));
    Selection own;
    own.kept.assign(ranked.begin() + static_cast<std::ptrdiff_t>(begin),
                    ranked.begin() + static_cast<std::ptrdiff_t>(begin + count));
    own.order = own.kept;
    std::sort(own.kept.begin(), own.kept.end());
    begin += count;
    GroupPlan part{.layer = plan.layer, .group = plan.group, .keep = std::vector<std::uint8_t>(n, 0)};
    for (const std::int32_t slot : own.kept) part.keep[static_cast<std::size_t>(slot)] = 1;
    const ActContext inner{call.params,        context.facts, context.moment, context.signals, context.cache,
                           context.columns,    own,           context.layer,  context.group,   context.memory,
                           context.layer_state};
    std::get<const ActRow*>(call.row)->act(inner, part);
    if (!part.merges.empty())
      throw Error(Category::usage, {.doing = "treating classes of slots",
                                    .found = call.name() + " within classes",
                                    .expected = "acts that leave other slots alone"});
    join(own.kept, part, plan);
  }
}

}  // namespace

extern const ActRow classes;
const ActRow classes = {
    .name = "classes",
    .source = "kvgrind",
    .help = "several treatments at once, by rank",
    .params = {{"of", ParamType::list, nullptr, "acts with shares, best slots first", -1e300, 1e300, {"act"}}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
