#include "replay/look/timeline.h"

#include <algorithm>
#include <numeric>

namespace kvgrind::replay {
namespace {

constexpr std::int64_t most_steps = 2048, states_bytes = 96ll << 20;

TimelineStep step_of(std::int64_t seen, const sim::CacheState& cache, bool with_states) {
  const sim::Ledger ledger = cache.ledger();
  TimelineStep step{.seen = seen,
                    .bytes = memory_bytes(cache, ledger),
                    .stored_bytes = ledger.stored_bytes(),
                    .full_bytes = ledger.full_bytes,
                    .touched_bytes = ledger.touched_bytes,
                    .moved_bytes = ledger.moved_bytes,
                    .slots = {},
                    .k_states = nullptr};
  for (std::int64_t l = 0; l < cache.layers(); ++l)
    for (std::int64_t h = 0; h < cache.heads(); ++h)
      step.slots.push_back(static_cast<std::int32_t>(cache.group(l, h).size()));
  if (with_states) {
    auto states = std::make_shared<std::vector<std::uint8_t>>();
    states->reserve(static_cast<std::size_t>(cache.layers() * cache.heads() * seen));
    for (std::int64_t l = 0; l < cache.layers(); ++l)
      for (std::int64_t h = 0; h < cache.heads(); ++h) {
        const std::vector<std::uint8_t> group = cache.token_states(l, h, sim::Part::key);
        states->insert(states->end(), group.begin(),
                       group.begin() + static_cast<std::ptrdiff_t>(
                                           std::min<std::size_t>(group.size(), static_cast<std::size_t>(seen))));
      }
    step.k_states = std::move(states);
  }
  return step;
}

}  // namespace

MemoryBytes memory_bytes(const sim::CacheState& cache, const sim::Ledger& ledger) {
  const std::int64_t part_bytes = cache.card().kv_bytes_per_token_group() / 2;
  std::int64_t exact_device = 0, exact_all = 0, elsewhere = 0, disk = 0;
  for (std::int64_t l = 0; l < cache.layers(); ++l)
    for (std::int64_t h = 0; h < cache.heads(); ++h) {
      const sim::GroupSlots& slots = cache.group(l, h);
      std::vector<std::int32_t> away, on_disk;
      for (std::size_t i = 0; i < slots.position.size(); ++i) {
        bool moved = false, to_disk = false;
        for (const sim::PartState* state : {&slots.k_state[i], &slots.v_state[i]}) {
          const bool whole = state->content == sim::Content::exact || state->content == sim::Content::merged;
          exact_all += whole ? part_bytes : 0;
          exact_device += whole && state->tier == sim::Tier::device ? part_bytes : 0;
          moved |= state->tier != sim::Tier::device;
          to_disk |= state->tier == sim::Tier::disk;
        }
        if (moved) away.push_back(static_cast<std::int32_t>(i));
        if (to_disk) on_disk.push_back(static_cast<std::int32_t>(i));
      }
      if (!away.empty()) elsewhere += cache.slot_bytes(l, h, away).elsewhere;
      if (!on_disk.empty()) disk += cache.slot_bytes(l, h, on_disk).elsewhere;
    }
  MemoryBytes out{.exact = exact_device, .host = elsewhere - disk, .disk = disk};
  const std::int64_t rest = ledger.stored_bytes() - exact_device - elsewhere;
  out.coded = std::clamp<std::int64_t>(ledger.ideal_bytes() - exact_all, 0, std::max<std::int64_t>(0, rest));
  out.overhead = rest - out.coded;
  return out;
}

const TimelineStep* Timeline::at(std::int64_t seen) const {
  const TimelineStep* found = nullptr;
  for (const TimelineStep& step : steps)
    if (step.k_states && (!found || step.seen <= seen)) found = &step;
  return found;
}

std::function<void(std::int64_t, const sim::CacheState&)> timeline_observer(Timeline& timeline, std::int64_t moment,
                                                                            std::int64_t tokens) {
  return [&timeline, moment, tokens](std::int64_t seen, const sim::CacheState& cache) {
    timeline.layers = cache.layers();
    timeline.heads = cache.heads();
    timeline.compress_at = moment;
    const std::int64_t tail = std::max<std::int64_t>(1, tokens - moment);
    const std::int64_t stride = (tail + most_steps - 1) / most_steps;
    const std::int64_t states =
        std::max<std::int64_t>(4, states_bytes / std::max<std::int64_t>(1, cache.layers() * cache.heads() * tokens));
    const std::int64_t state_stride = std::max(stride, (tail + states - 1) / states);
    const std::int64_t at = seen - moment;
    const bool always = at <= 0 || seen == tokens;
    if (!always && at % stride != 0) return;
    timeline.steps.push_back(step_of(seen, cache, always || at % state_stride == 0));
    if (seen <= moment) timeline.compressed = timeline.steps.size() - 1;
  };
}

}  // namespace kvgrind::replay
