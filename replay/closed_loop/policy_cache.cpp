#include "replay/closed_loop/policy_cache.h"

#include <cassert>
#include <utility>

#include "core/error.h"

namespace kvgrind::replay {

PolicyCache::PolicyCache(sim::CacheState state, const sim::RunSetup& setup, const sim::SignalSource& signals)
    : state_(std::move(state)), run_(setup, signals, state_), gathered_(static_cast<std::size_t>(state_.heads())) {}

PolicyCache::PolicyCache(const PolicyCache& other, const sim::SignalSource& signals, std::int64_t room)
    : state_(other.state_.with_room(room)), run_(other.run_, signals, state_), gathered_(other.gathered_.size()) {}

void PolicyCache::append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) {
  state_.append(layer, first, k, v);
}

void PolicyCache::before_attention(std::int64_t layer, std::int64_t first, View<const float, 3> q) {
  const sim::ReadPlan plan = run_.read(layer, first, q);
  reads_all_ = plan.all;
  if (plan.all) return;
  if (q.extent(0) != 1)
    throw Error(Category::usage, {.doing = "reading through a policy",
                                  .found = std::to_string(q.extent(0)) + " queries at once",
                                  .expected = "one: a policy that chooses what each query reads runs step by step"});
  for (std::int64_t head = 0; head < state_.heads(); ++head) {
    const sim::GroupView all = state_.read(layer, head);
    Gathered& out = gathered_[static_cast<std::size_t>(head)];
    const auto& slots = plan.slots[static_cast<std::size_t>(head)][0];
    const std::int64_t dim = all.k.extent(1);
    out.k.clear();
    out.v.clear();
    out.position.clear();
    out.log_count.clear();
    for (const std::int32_t slot : slots) {
      for (std::int64_t d = 0; d < dim; ++d) {
        out.k.push_back(all.k(slot, d));
        out.v.push_back(all.v(slot, d));
      }
      out.position.push_back(all.position[static_cast<std::size_t>(slot)]);
      if (all.log_count) out.log_count.push_back(all.log_count[slot]);
    }
  }
}

sim::GroupView PolicyCache::read(std::int64_t layer, std::int64_t head) const {
  if (reads_all_) return state_.read(layer, head);
  const Gathered& chosen = gathered_[static_cast<std::size_t>(head)];
  const auto n = static_cast<std::int64_t>(chosen.position.size());
  const std::int64_t dim = state_.card().head_dim;
  return {{chosen.k.data(), {n, dim}},
          {chosen.v.data(), {n, dim}},
          chosen.position,
          chosen.log_count.empty() ? nullptr : chosen.log_count.data()};
}

void PolicyCache::layer_done(std::int64_t layer, std::int64_t first, View<const float, 3> q) {
  run_.layer_done(layer, first, q.extent(0));
}

}  // namespace kvgrind::replay
