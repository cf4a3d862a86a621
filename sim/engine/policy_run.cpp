#include "sim/engine/policy_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "core/error.h"
#include "core/parallel.h"
#include "sim/engine/base_amount.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/score_store.h"

namespace kvgrind::sim {

namespace {

bool asks_amount(const BoundCall& score) {
  if (std::get<const ScoreRow*>(score.row)->by_amount) return true;
  for (const auto& entry : score.params.entries)
    for (const BoundCall& inner : entry->calls)
      if (std::holds_alternative<const ScoreRow*>(inner.row) && asks_amount(inner)) return true;
  return false;
}

// What a run has come to so far: what a fork takes over.
struct Past {
  std::vector<Memory> score_memory, select_memory, act_memory, read_memory;  // [L · heads]
  Memory budget_memory;
  std::vector<Columns> columns;  // [L · heads] of the last scoring
  std::vector<std::int64_t> requested, effective, nan;
  std::vector<std::int64_t> scored_until;  // [L] queries that scores have seen
  std::vector<std::int64_t> fired_at;      // [L] tokens at the last firing, −1 = never
  std::int64_t compressed_at = -1;
  std::int64_t slots_called = 0;
  std::function<void(const GroupPlan&)> observer;
};

}  // namespace

struct PolicyRun::State : Past {
  RunSetup setup;
  const SignalSource& signals;
  CacheState& cache;
  RunFacts facts, score_facts;  // of scores: without the amount, unless they ask for it

  State(const RunSetup& given, const SignalSource& source, CacheState& owned)
      : setup(given), signals(source), cache(owned) {
    facts = {setup.seed, setup.sequence, &cache.card(), &setup.amount};
    score_facts = facts;
    if (!asks_amount(policy().score)) score_facts.amount = nullptr;
    const auto groups = static_cast<std::size_t>(cache.layers() * cache.heads());
    score_memory.resize(groups);
    select_memory.resize(groups);
    act_memory.resize(groups);
    read_memory.resize(groups);
    columns.resize(groups);
    requested.resize(groups);
    effective.resize(groups);
    nan.resize(groups);
    scored_until.resize(static_cast<std::size_t>(cache.layers()), 0);
    fired_at.resize(static_cast<std::size_t>(cache.layers()), -1);
  }

  State(const State& other, const SignalSource& source, CacheState& owned) : State(other.setup, source, owned) {
    static_cast<Past&>(*this) = other;
  }

  const BoundPolicy& policy() const { return *setup.policy; }
  std::size_t at(std::int64_t layer, std::int64_t group) const {
    return static_cast<std::size_t>(layer * cache.heads() + group);
  }

  void check() const {
    for (const Signal signal : needed_signals(policy())) {
      if (signals.has(signal)) continue;
      const std::string_view name = signal_name(signal), pass = name.substr(0, name.find("_probe"));
      throw Error(Category::usage,
                  {.doing = "running policy",
                   .on = typed_text(policy()),
                   .found = fmt::format("no signal {}", name),
                   .expected = "it: the policy needs it",
                   .next = pass.size() < name.size() ? fmt::format("record with --probes {}", pass) : ""});
    }
    check_calibrations(policy(), cache.card());
    const bool split = cache_granularity(policy()) == Granularity::query_head;
    const ModelCard& card = cache.card();
    if (split && card.query_heads != card.kv_heads && cache.heads() != card.query_heads)
      throw Error(Category::usage, {.doing = "running policy",
                                    .on = typed_text(policy()),
                                    .found = "reduce=none over a cache that query heads share",
                                    .expected = "a cache per query head"});
  }

  // Whether the schedule fires, seen from one layer.
  bool fires(const Moment& moment, std::int64_t layer) const {
    const std::int64_t last = fired_at[static_cast<std::size_t>(layer)];
    return policy().schedule_row().fires({policy().schedule.params, moment, last < 0 ? -1 : moment.tokens - last});
  }

  // scope=new: what was decided before stays, and a fraction is of the tokens since.
  bool only_new(std::int64_t layer) const {
    if (fired_at[static_cast<std::size_t>(layer)] < 0) return false;
    for (const auto& entry : policy().schedule.params.entries)
      if (std::string_view(entry->row->name) == "scope") return policy().schedule.params.word("scope") == "new";
    return false;
  }

  void score(std::int64_t layer, std::int64_t group, Moment moment) {
    moment.queries_begin = scored_until[static_cast<std::size_t>(layer)];
    const std::size_t i = at(layer, group);
    const ScoreContext context{policy().score.params, score_facts, moment, signals, cache, layer, group,
                               score_memory[i]};
    columns[i].extra.clear();
    columns[i].figures.clear();
    context.evaluate(policy().score, columns[i]);
  }

  // Joins of nested scores first: those within a score that passes them through.
  void join(const BoundCall& call, const Moment& moment, std::span<const JoinGroup> groups) {
    for (const auto& entry : call.params.entries)
      for (const BoundCall& inner : entry->calls)
        if (std::holds_alternative<const ScoreRow*>(inner.row)) join(inner, moment, groups);
    const auto& row = *std::get<const ScoreRow*>(call.row);
    if (row.join) row.join({call.params, score_facts, moment, groups});
  }

  // The groups that one firing decides on.
  struct Work {
    std::int64_t layer = 0, group = 0, first_slot = 0;  // slots below first_slot stay
    const GroupSlots* slots = nullptr;                  // the others: the group's own, or later_slots without K and V
    const Columns* columns = nullptr;                   // theirs: the group's own, or later_columns
    GroupSlots later_slots;
    Columns later_columns;
    Selection selection;  // over all slots
    GroupPlan plan;
  };

  // What decides the scores of an untouched cache; empty when they are not shared: the amount matters to them, or what
  // they remember does.
  std::string shared_name(const Moment& moment) const {
    const ScheduleRow& schedule = policy().schedule_row();
    if (!setup.scores || score_facts.amount || !schedule.one_shot || schedule.layers || fired_at[0] >= 0) return {};
    return fmt::format("{} seed {} heads {} tokens {} role {}", policy().score.text(), setup.seed, cache.heads(),
                       moment.tokens, static_cast<int>(moment.role));
  }

  void score_all(std::span<const Work> work, const Moment& moment, std::int64_t score_from) {
    const std::string name = shared_name(moment);
    if (!name.empty())
      if (const ScoreStore::Scores found = setup.scores->find(name)) {
        columns = *found;
        return;
      }
    parallel_for(static_cast<std::int64_t>(work.size()), [&](std::int64_t w) {
      const Work& one = work[static_cast<std::size_t>(w)];
      if (one.layer >= score_from) score(one.layer, one.group, moment);
    });
    std::vector<JoinGroup> scored;
    for (const Work& one : work)
      if (one.layer >= score_from)
        scored.push_back(
            {one.layer, one.group, &cache.group(one.layer, one.group), &columns[at(one.layer, one.group)]});
    join(policy().score, moment, scored);
    if (!name.empty()) setup.scores->keep(name, columns);
  }

  void take_candidates(Work& work) const {
    const GroupSlots& slots = cache.group(work.layer, work.group);
    if (only_new(work.layer)) {
      const std::int64_t last = fired_at[static_cast<std::size_t>(work.layer)];
      work.first_slot = std::lower_bound(slots.position.begin(), slots.position.end(), last) - slots.position.begin();
    }
    const Columns& all = columns[at(work.layer, work.group)];
    work.slots = &slots;
    work.columns = &all;
    if (work.first_slot == 0) return;
    const auto from = static_cast<std::ptrdiff_t>(work.first_slot);
    const auto tail = [from](const auto& list) {
      return std::decay_t<decltype(list)>(list.begin() + from, list.end());
    };
    GroupSlots& later = work.later_slots;
    later.head_dim = slots.head_dim;
    later.position = tail(slots.position);
    later.rotary = tail(slots.rotary);
    later.count = tail(slots.count);
    later.k_state = tail(slots.k_state);
    later.v_state = tail(slots.v_state);
    work.later_columns.s = tail(all.s);
    for (const auto& [name, column] : all.extra) work.later_columns.extra[name] = tail(column);
    work.later_columns.figures = all.figures;
    work.slots = &later;
    work.columns = &work.later_columns;
  }

  void allocate(std::vector<Work>& work, const Moment& moment) {
    std::vector<BudgetGroup> groups(work.size());
    for (std::size_t w = 0; w < work.size(); ++w) {
      const std::int64_t layer = work[w].layer;
      std::int64_t tokens = cache.reach(layer);
      if (only_new(layer)) tokens = std::min(tokens, moment.tokens - fired_at[static_cast<std::size_t>(layer)]);
      const BaseAmount base = base_amount(setup.amount, tokens, cache.card(), cache.heads());
      groups[w] = {layer,     work[w].group,      tokens, work[w].slots->size(), base.tokens,
                   base.real, work[w].columns->s, 0,      work[w].columns};
    }
    const Scope scope = policy().budget_row().scope;
    std::size_t begin = 0;
    while (begin < groups.size()) {
      std::size_t end = groups.size();
      if (scope == Scope::group) end = begin + 1;
      if (scope == Scope::layer)
        for (end = begin + 1; end < groups.size() && groups[end].layer == groups[begin].layer;) ++end;
      std::vector<BudgetGroup> part(groups.begin() + static_cast<std::ptrdiff_t>(begin),
                                    groups.begin() + static_cast<std::ptrdiff_t>(end));
      policy().budget_row().allocate(
          {policy().budget.params, facts, moment, signals, setup.amount, part, budget_memory});
      for (std::size_t p = 0; p < part.size(); ++p) {
        const std::int64_t kept = std::clamp<std::int64_t>(part[p].kept, 0, part[p].visible);
        requested[at(part[p].layer, part[p].group)] = kept;
      }
      begin = end;
    }
  }

  void select(Work& work, const Moment& moment) {
    const std::size_t i = at(work.layer, work.group);
    const GroupSlots& all = cache.group(work.layer, work.group);
    const std::int64_t n = work.slots->size(), skipped = work.first_slot * all.head_dim;
    const SelectContext context{policy().select.params,
                                facts,
                                moment,
                                *work.slots,
                                *work.columns,
                                work.layer,
                                work.group,
                                requested[i],
                                nan[i],
                                select_memory[i],
                                {all.k.data() + skipped, {n, all.head_dim}},
                                {all.v.data() + skipped, {n, all.head_dim}}};
    Selection selection = policy().select_row().select(context);
    effective[i] = static_cast<std::int64_t>(selection.kept.size());
    if (work.first_slot == 0) {
      work.selection = std::move(selection);
      return;
    }
    const auto shift = static_cast<std::int32_t>(work.first_slot);
    work.selection = {};
    for (std::int32_t slot = 0; slot < shift; ++slot) {
      work.selection.kept.push_back(slot);
      work.selection.order.push_back(slot);
    }
    for (const std::int32_t slot : selection.kept) work.selection.kept.push_back(slot + shift);
    for (const std::int32_t slot : selection.order) work.selection.order.push_back(slot + shift);
    if (!selection.into.empty()) {
      work.selection.into.assign(static_cast<std::size_t>(shift), -1);
      for (const std::int32_t slot : selection.into) work.selection.into.push_back(slot < 0 ? -1 : slot + shift);
    }
  }

  ActContext act_context(const Work& work, const Moment& moment) {
    const std::size_t i = at(work.layer, work.group);
    return {policy().act.params, facts,          moment,     signals,    cache,
            columns[i],          work.selection, work.layer, work.group, act_memory[i]};
  }

  void act(std::vector<Work>& work, const Moment& moment) {
    std::vector<std::shared_ptr<const void>> state(work.size());
    if (policy().act_row().prepare)
      for (std::size_t begin = 0; begin < work.size();) {
        std::vector<ActContext> contexts;
        std::size_t end = begin;
        for (; end < work.size() && work[end].layer == work[begin].layer; ++end)
          contexts.push_back(act_context(work[end], moment));
        const auto shared = policy().act_row().prepare(contexts);
        std::fill(state.begin() + static_cast<std::ptrdiff_t>(begin), state.begin() + static_cast<std::ptrdiff_t>(end),
                  shared);
        begin = end;
      }
    parallel_for(static_cast<std::int64_t>(work.size()), [&](std::int64_t w) {
      Work& one = work[static_cast<std::size_t>(w)];
      ActContext context = act_context(one, moment);
      context.layer_state = state[static_cast<std::size_t>(w)];
      one.plan.layer = one.layer;
      one.plan.group = one.group;
      one.plan.keep.assign(static_cast<std::size_t>(cache.group(one.layer, one.group).size()), 0);
      for (const std::int32_t slot : one.selection.kept) one.plan.keep[static_cast<std::size_t>(slot)] = 1;
      policy().act_row().act(context, one.plan);
    });
  }

  // Decides on layers [first, last]; scores those from `score_from` on, the others keep their last scores.
  void fire(const Moment& moment, std::int64_t first, std::int64_t last, std::int64_t score_from) {
    cache.begin_step();
    std::vector<Work> work;
    for (std::int64_t layer = first; layer <= last; ++layer) {
      cache.expire(layer, moment.tokens);
      for (std::int64_t group = 0; group < cache.heads(); ++group) {
        Work one;
        one.layer = layer;
        one.group = group;
        work.push_back(std::move(one));
      }
    }
    score_all(work, moment, score_from);
    const auto n = static_cast<std::int64_t>(work.size());
    parallel_for(n, [&](std::int64_t w) { take_candidates(work[static_cast<std::size_t>(w)]); });
    allocate(work, moment);
    parallel_for(n, [&](std::int64_t w) { select(work[static_cast<std::size_t>(w)], moment); });
    act(work, moment);
    for (Work& one : work) {
      if (observer) observer(one.plan);
      cache.adopt(one.plan.codecs);
    }
    parallel_for(n, [&](std::int64_t w) {
      const Work& one = work[static_cast<std::size_t>(w)];
      cache.apply(one.plan);
      keep_columns(one);
    });
    slots_called += n;
    for (std::int64_t layer = first; layer <= last; ++layer) {
      if (layer >= score_from) scored_until[static_cast<std::size_t>(layer)] = moment.tokens;
      fired_at[static_cast<std::size_t>(layer)] = moment.tokens;
    }
  }

  // Scores of earlier layers are used again when a later layer's end shrinks them (a cascade).
  void keep_columns(const Work& work) {
    Columns& held = columns[at(work.layer, work.group)];
    if (!policy().schedule_row().layers) return;
    const auto keep = [&](std::vector<float>& column) {
      std::size_t to = 0;
      for (std::size_t i = 0; i < column.size(); ++i)
        if (work.plan.keep[i]) column[to++] = column[i];
      column.resize(to);
    };
    keep(held.s);
    for (auto& [name, column] : held.extra) keep(column);
  }

  void all_layers(const Moment& moment) {
    if (fires(moment, 0)) fire(moment, 0, cache.layers() - 1, 0);
  }
};

PolicyRun::PolicyRun(const RunSetup& setup, const SignalSource& signals, CacheState& cache)
    : state_(std::make_unique<State>(setup, signals, cache)) {
  assert(setup.policy);
  state_->check();
  for (const auto& entry : setup.policy->act.params.entries)
    if (std::string_view(entry->row->name) == "count_bias" && entry->number != 0) cache.set_count_bias(true);
}
PolicyRun::PolicyRun(const PolicyRun& other, const SignalSource& signals, CacheState& cache)
    : state_(std::make_unique<State>(*other.state_, signals, cache)) {
  assert(cache.heads() == other.state_->cache.heads());
}
PolicyRun::~PolicyRun() = default;
PolicyRun::PolicyRun(PolicyRun&&) noexcept = default;

ReadPlan PolicyRun::read(std::int64_t layer, std::int64_t first, View<const float, 3> q) {
  State& s = *state_;
  const ReadRow& row = s.policy().read_row();
  CacheState& cache = s.cache;
  ReadPlan out;
  const std::int64_t heads = cache.heads(), n = q.extent(0);
  if (row.reads_all || s.compressed_at < 0 || n == 0) {
    cache.note_read(layer, std::nullopt);
    return out;
  }
  out.all = false;
  out.slots.resize(static_cast<std::size_t>(heads));
  s.slots_called += heads;
  std::vector<SlotBytes> read_bytes(static_cast<std::size_t>(heads));
  parallel_for(heads, [&](std::int64_t group) {
    auto& chosen = out.slots[static_cast<std::size_t>(group)];
    chosen.resize(static_cast<std::size_t>(n));
    const ReadContext context{s.policy().read.params,
                              s.facts,
                              s.signals,
                              cache,
                              s.setup.amount,
                              layer,
                              group,
                              first,
                              s.compressed_at,
                              q,
                              s.read_memory[s.at(layer, group)]};
    row.read(context, chosen);
    // The last query is the step: it reads its slots and what helped to choose them.
    SlotBytes& bytes = read_bytes[static_cast<std::size_t>(group)];
    bytes = cache.slot_bytes(layer, group, chosen.back());
    if (row.metadata_bytes) bytes.stored += row.metadata_bytes(context);
  });
  SlotBytes sum;
  for (const SlotBytes& bytes : read_bytes) {
    sum.stored += bytes.stored;
    sum.elsewhere += bytes.elsewhere;
    sum.recomputed += bytes.recomputed;
  }
  cache.note_read(layer, sum);
  return out;
}

void PolicyRun::layer_done(std::int64_t layer, std::int64_t first, std::int64_t n) {
  State& s = *state_;
  if (!s.policy().schedule_row().layers) return;
  const Moment moment{.kind = Moment::Kind::layer, .tokens = first + n};
  if (!s.fires(moment, layer)) return;
  // A budget over the model sees every layer that is done; the others decide on this layer alone.
  const bool model = s.policy().budget_row().scope == Scope::model;
  s.fire(moment, model ? 0 : layer, layer, layer);
}

void PolicyRun::chunk_done(std::int64_t first, std::int64_t n) {
  state_->all_layers({.kind = Moment::Kind::chunk, .tokens = first + n});
}

void PolicyRun::step_done(std::int64_t position) {
  state_->all_layers({.kind = Moment::Kind::step, .tokens = position + 1});
}

void PolicyRun::segment_end(Role role, std::int64_t end, bool compress) {
  State& s = *state_;
  if (compress) {
    s.compressed_at = end;
    // What a policy that never decides keeps: everything.
    for (std::int64_t layer = 0; layer < s.cache.layers(); ++layer)
      for (std::int64_t group = 0; group < s.cache.heads(); ++group)
        s.requested[s.at(layer, group)] = s.effective[s.at(layer, group)] = s.cache.group(layer, group).size();
  }
  s.all_layers({.kind = Moment::Kind::segment, .tokens = end, .compress = compress, .role = role});
}

std::int64_t PolicyRun::slots_called() const { return state_->slots_called; }
std::int64_t PolicyRun::nan_scores() const {
  std::int64_t sum = 0;
  for (const std::int64_t n : state_->nan) sum += n;
  return sum;
}
const std::vector<std::int64_t>& PolicyRun::requested() const { return state_->requested; }
const std::vector<std::int64_t>& PolicyRun::effective() const { return state_->effective; }
void PolicyRun::on_plan(std::function<void(const GroupPlan&)> observer) { state_->observer = std::move(observer); }

}  // namespace kvgrind::sim
