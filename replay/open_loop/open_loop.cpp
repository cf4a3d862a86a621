#include "replay/open_loop/open_loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "kernels/linear/linear.h"
#include "replay/open_loop/attend.h"
#include "replay/open_loop/span_watch.h"
#include "sim/engine/bound_policy.h"

namespace kvgrind::replay {
namespace {

CountSummary summary(const std::vector<std::int64_t>& counts) {
  CountSummary out;
  if (counts.empty()) return out;
  out.min = *std::min_element(counts.begin(), counts.end());
  out.max = *std::max_element(counts.begin(), counts.end());
  const double sum = std::accumulate(counts.begin(), counts.end(), 0.0,
                                     [](double total, std::int64_t n) { return total + static_cast<double>(n); });
  out.mean = sum / static_cast<double>(counts.size());
  return out;
}

CountSummary slot_counts(const sim::CacheState& cache) {
  std::vector<std::int64_t> counts;
  for (std::int64_t l = 0; l < cache.layers(); ++l)
    for (std::int64_t h = 0; h < cache.heads(); ++h) counts.push_back(cache.group(l, h).size());
  return summary(counts);
}

class Job {
 public:
  Job(const SequenceData& data, const OpenJob& job, const OpenOptions& options)
      : data_(data),
        card_(data.card()),
        job_(job),
        options_(options),
        cache_(card_, sim::cache_granularity(*job.policy)),
        run_({.policy = job.policy,
              .amount = job.amount,
              .seed = job.seed,
              .sequence = data.id(),
              .scores = &data.scores()},
             data.source(), cache_),
        spans_(data.info().spans, cache_),
        measured_(static_cast<std::int64_t>(data.measured().size())) {
    table_.rows = Array<RowTally, 3>({card_.layers, card_.query_heads, measured_});
    table_.overlap_keys = SequenceData::overlap_keys;
    for (std::int64_t l = 0; l < card_.layers; ++l)
      outputs_.emplace_back(Array<float, 2>({measured_, card_.query_heads * card_.head_dim}));
    run_.on_plan([this](const sim::GroupPlan& plan) {
      options_.cancel.throw_if_cancelled();
      spans_.see(plan, cache_, seen_);
      if (options_.on_plan) options_.on_plan(plan);
    });
  }

  OpenOutcome finish();

 private:
  void prefill(std::int64_t moment);
  void tail(std::int64_t moment);
  void feed(std::int64_t layer, std::int64_t first, std::int64_t n);
  void feed_all(std::int64_t first, std::int64_t n);
  bool windowed() const;
  void observe() const {
    if (options_.on_tokens) options_.on_tokens(seen_, cache_);
  }
  void end_segments(std::int64_t until, std::int64_t moment, bool compress);
  void measure(std::int64_t layer, std::int64_t first, std::int64_t n);
  void measure_rows(std::int64_t layer, std::int64_t row, std::int64_t first, std::int64_t n);
  void measure_head(std::int64_t layer, std::int64_t head, std::int64_t row, std::int64_t n, const sim::ReadPlan& plan);
  void attend_rows(std::int64_t layer, std::int64_t query_head, std::int64_t row, std::int64_t n,
                   const sim::GroupView& slots, View<float, 2> p);
  void take(std::int64_t layer, std::int64_t query_head, std::int64_t row, std::span<const float> reference,
            std::span<const std::int64_t> slot, const std::int32_t* index, std::int64_t slots,
            std::span<const float> probabilities);
  void take_group(std::int64_t layer, std::int64_t head, std::int64_t row, std::span<const std::int64_t> slot,
                  const std::int32_t* index, std::int64_t slots);
  void project();
  std::vector<MeasuredSet> measured_sets() const;
  void moment_figures(std::int64_t moment);

  const SequenceData& data_;
  const ModelCard& card_;
  const OpenJob& job_;
  const OpenOptions& options_;
  sim::CacheState cache_;
  sim::PolicyRun run_;
  SpanWatch spans_;
  std::int64_t measured_;
  std::int64_t seen_ = 0;    // tokens fed, for first losses
  std::size_t segment_ = 0;  // next segment to end
  TallyTable table_;
  std::vector<Array<float, 2>> outputs_;  // [L][M, Hq·D]
  OpenOutcome out_;
};

void Job::feed(std::int64_t layer, std::int64_t first, std::int64_t n) {
  cache_.append(layer, first, data_.keys(layer).view().slice(first, n), data_.values(layer).view().slice(first, n));
}

bool Job::windowed() const {
  return std::any_of(card_.layer.begin(), card_.layer.end(), [](const LayerCard& layer) { return layer.window > 0; });
}

// Token by token, for the observer's sake; what every layer then holds is what one append would have left.
void Job::feed_all(std::int64_t first, std::int64_t n) {
  for (std::int64_t t = first; t < first + n; ++t) {
    for (std::int64_t l = 0; l < card_.layers; ++l) feed(l, t, 1);
    seen_ = t + 1;
    observe();
  }
}

// Segment ends in (…, until], in order; the one at the moment compresses (a moment inside a segment ends it there).
void Job::end_segments(std::int64_t until, std::int64_t moment, bool compress) {
  const auto& segments = data_.info().segments;
  bool compressed = false;
  for (; segment_ < segments.size() && segments[segment_].end <= until; ++segment_) {
    const Segment& segment = segments[segment_];
    const bool here = compress && segment.end == moment;
    compressed = compressed || here;
    run_.segment_end(segment.role, segment.end, here);
  }
  if (compress && !compressed) run_.segment_end(Role::context, moment, true);
}

void Job::prefill(std::int64_t moment) {
  std::int64_t chunk = options_.prefill_chunk;
  if (chunk <= 0 && job_.policy->schedule.name() == "chunk") chunk = job_.policy->schedule.params.integer("size");
  if (chunk <= 0) chunk = moment;
  for (std::int64_t first = 0; first < moment;) {
    const std::int64_t n = std::min(chunk, moment - first);
    for (std::int64_t l = 0; l < card_.layers; ++l) {
      feed(l, first, n);
      seen_ = first + n;
      run_.layer_done(l, first, n);
    }
    run_.chunk_done(first, n);
    first += n;
    if (first < moment) end_segments(first, moment, false);
    observe();
  }
  end_segments(moment, moment, true);
  observe();
}

void Job::tail(std::int64_t moment) {
  // Queries before the moment are asked of the cache as it is now.
  for (std::int64_t l = 0; l < card_.layers; ++l) measure(l, 0, moment);
  const bool steps = sim::needs_steps(*job_.policy);
  const bool events = !sim::one_shot(*job_.policy);  // a one-shot policy has decided: later tokens just stay
  const auto& segments = data_.info().segments;
  for (std::int64_t first = moment; first < data_.tokens();) {
    std::int64_t end = steps ? first + 1 : data_.tokens();
    for (std::size_t s = segment_; events && s < segments.size(); ++s)
      if (segments[s].end > first) end = std::min(end, segments[s].end);
    const std::int64_t n = end - first;
    const bool piecewise = options_.on_tokens && !events && !windowed();
    if (piecewise) feed_all(first, n);
    for (std::int64_t l = 0; l < card_.layers; ++l) {
      if (!piecewise) feed(l, first, n);
      seen_ = end;
      measure(l, first, n);
      if (events) run_.layer_done(l, first, n);
    }
    if (events && steps) run_.step_done(first);
    if (events && !steps) run_.chunk_done(first, n);
    if (events) end_segments(end, -1, false);
    if (!piecewise) observe();
    first = end;
  }
}

// The measured queries among positions [first, first + n).
void Job::measure(std::int64_t layer, std::int64_t first, std::int64_t n) {
  for (const QueryRun& piece : data_.runs()) {
    const std::int64_t begin = std::max(piece.first, first), end = std::min(piece.first + piece.n, first + n);
    if (begin < end) measure_rows(layer, piece.row + begin - piece.first, begin, end - begin);
  }
}

void Job::measure_rows(std::int64_t layer, std::int64_t row, std::int64_t first, std::int64_t n) {
  // Queries from before the moment may reach back to keys that a windowed layer has since let go of, with or without a
  // policy: they say nothing of the policy there.
  const std::int64_t window = card_.layer[static_cast<std::size_t>(layer)].window;
  if (window > 0 && first < out_.compress_at && out_.compress_at >= window) {
    const Array<float, 2>& reference = data_.reference_output(layer);
    const std::int64_t width = reference.extent(1);
    std::copy_n(&reference(row, 0), n * width, &outputs_[static_cast<std::size_t>(layer)](row, 0));
    return;
  }
  const sim::ReadPlan plan = run_.read(layer, first, data_.queries(layer).view().slice(row, n));
  for (std::int64_t head = 0; head < cache_.heads(); ++head) {
    options_.cancel.throw_if_cancelled();
    measure_head(layer, head, row, n, plan);
  }
}

void Job::measure_head(std::int64_t layer, std::int64_t head, std::int64_t row, std::int64_t n,
                       const sim::ReadPlan& plan) {
  const sim::GroupView group = cache_.read(layer, head);
  const auto slots = static_cast<std::int64_t>(group.position.size());
  const std::int64_t dim = card_.head_dim, first_query_head = head * card_.query_heads / cache_.heads();
  const std::int64_t query_heads = card_.query_heads / cache_.heads();
  const auto position_of = [&](std::int64_t i) { return data_.measured()[static_cast<std::size_t>(row + i)]; };
  const auto visible = [&](std::int64_t i) {
    return std::upper_bound(group.position.begin(), group.position.end(), position_of(i)) - group.position.begin();
  };
  // Rows whose plan leaves out a visible slot are attended alone, over what they read.
  std::vector<std::uint8_t> chosen(static_cast<std::size_t>(n), 0);
  std::vector<std::vector<std::int32_t>> reads(static_cast<std::size_t>(n));
  bool any_whole = plan.all;
  for (std::int64_t i = 0; i < n && !plan.all; ++i) {
    auto& read = reads[static_cast<std::size_t>(i)];
    const std::int64_t can_see = visible(i);
    for (const std::int32_t slot : plan.slots[static_cast<std::size_t>(head)][static_cast<std::size_t>(i)])
      if (slot < can_see) read.push_back(slot);
    chosen[static_cast<std::size_t>(i)] = static_cast<std::int64_t>(read.size()) < can_see;
    any_whole = any_whole || !chosen[static_cast<std::size_t>(i)];
  }
  Array<float, 2> p;
  if (any_whole) p = Array<float, 2>({n, slots});
  std::vector<ReferenceRows> references;  // of the group's query heads
  for (std::int64_t q = first_query_head; q < first_query_head + query_heads; ++q)
    references.push_back(data_.reference_rows(layer, q, row, n));
  const auto reference = [&](std::int64_t q, std::int64_t i) {
    return references[static_cast<std::size_t>(q - first_query_head)].row(row + i);
  };
  for (std::int64_t q = first_query_head; q < first_query_head + query_heads; ++q) {
    if (any_whole) attend_rows(layer, q, row, n, group, p.view());
    for (std::int64_t i = 0; i < n; ++i)
      if (!chosen[static_cast<std::size_t>(i)])
        take(layer, q, row + i, reference(q, i), group.position, nullptr, slots,
             {slots > 0 ? &p(i, 0) : nullptr, static_cast<std::size_t>(slots)});
  }
  std::vector<float> k, v, log_count;
  std::vector<std::int64_t> positions;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool part = chosen[static_cast<std::size_t>(i)] != 0;
    const auto& read = reads[static_cast<std::size_t>(i)];
    const auto count = part ? static_cast<std::int64_t>(read.size()) : visible(i);
    if (options_.group_recall)
      take_group(layer, head, row + i, group.position, part ? read.data() : nullptr, part ? count : slots);
    if (!part) continue;
    k.clear();
    v.clear();
    positions.clear();
    log_count.clear();
    for (const std::int32_t slot : read) {
      k.insert(k.end(), &group.k(slot, 0), &group.k(slot, 0) + dim);
      v.insert(v.end(), &group.v(slot, 0), &group.v(slot, 0) + dim);
      positions.push_back(group.position[static_cast<std::size_t>(slot)]);
      if (group.log_count) log_count.push_back(group.log_count[slot]);
    }
    const sim::GroupView gathered{
        {k.data(), {count, dim}}, {v.data(), {count, dim}}, positions, group.log_count ? log_count.data() : nullptr};
    Array<float, 2> one({1, count});
    for (std::int64_t q = first_query_head; q < first_query_head + query_heads; ++q) {
      attend_rows(layer, q, row + i, 1, gathered, one.view());
      take(layer, q, row + i, reference(q, i), group.position, read.data(), count,
           {one.data(), static_cast<std::size_t>(count)});
    }
  }
}

// Attention of n measured queries of one head over slots: p [n, slots], outputs into outputs_.
void Job::attend_rows(std::int64_t layer, std::int64_t query_head, std::int64_t row, std::int64_t n,
                      const sim::GroupView& slots, View<float, 2> p) {
  const std::int64_t heads = card_.query_heads, dim = card_.head_dim, place = (row * heads + query_head) * dim;
  attend({.card = card_,
          .layer = layer,
          .query_head = query_head,
          .q = {data_.queries(layer).data() + place, {n, dim}, {heads * dim, 1}},
          .position = std::span(data_.measured()).subspan(static_cast<std::size_t>(row), static_cast<std::size_t>(n)),
          .slots = slots},
         p, {outputs_[static_cast<std::size_t>(layer)].data() + place, {n, dim}, {heads * dim, 1}});
}

void Job::take(std::int64_t layer, std::int64_t query_head, std::int64_t row, std::span<const float> reference,
               std::span<const std::int64_t> slot, const std::int32_t* index, std::int64_t slots,
               std::span<const float> probabilities) {
  table_.rows(layer, query_head, row) = tally_row(data_.reference_tally(layer, query_head, row),
                                                  {.reference = reference,
                                                   .query = data_.measured()[static_cast<std::size_t>(row)],
                                                   .context = data_.context_keys(),
                                                   .top = data_.reference_top(layer, query_head, row),
                                                   .slot = slot,
                                                   .slot_index = index,
                                                   .slots = slots,
                                                   .row = probabilities});
}

void Job::take_group(std::int64_t layer, std::int64_t head, std::int64_t row, std::span<const std::int64_t> slot,
                     const std::int32_t* index, std::int64_t slots) {
  const std::int64_t position = data_.measured()[static_cast<std::size_t>(row)];
  const std::int64_t per = card_.query_heads / cache_.heads();
  std::vector<double> mass(static_cast<std::size_t>(position + 1), 0.0);
  for (std::int64_t q = head * per; q < (head + 1) * per; ++q) {
    const ReferenceRows reference = data_.reference_rows(layer, q, row, 1);
    for (std::int64_t j = 0; j <= position; ++j)
      mass[static_cast<std::size_t>(j)] += static_cast<double>(reference.row(row)[static_cast<std::size_t>(j)]);
  }
  GroupRecall out{.layer = layer, .group = head, .position = position};
  for (std::int64_t i = 0; i < slots; ++i) {
    const std::int64_t at = slot[static_cast<std::size_t>(index ? index[i] : i)];
    if (at > position) continue;
    ++out.count;
    out.kept_mass += mass[static_cast<std::size_t>(at)];
  }
  out.mass = std::accumulate(mass.begin(), mass.end(), 0.0);
  std::partial_sort(mass.begin(), mass.begin() + out.count, mass.end(), std::greater<>());
  out.oracle_mass = std::accumulate(mass.begin(), mass.begin() + out.count, 0.0);
  out_.group_recall.push_back(out);
}

void Job::moment_figures(std::int64_t moment) {
  const sim::Ledger ledger = cache_.ledger();
  ledger.check();
  out_.compress_at = moment;
  out_.kept_at_moment = slot_counts(cache_);
  out_.kept_frac = moment > 0 ? out_.kept_at_moment.mean / static_cast<double>(moment) : 1.0;
  out_.full_bytes = ledger.full_bytes;
  out_.stored_bytes = ledger.stored_bytes();
  out_.ideal_bytes = ledger.ideal_bytes();
}

std::vector<MeasuredSet> Job::measured_sets() const {
  std::vector<MeasuredSet> out;
  const QuerySets& sets = data_.sets();
  for (const auto& [name, positions] :
       {std::pair("all", &sets.all), std::pair("question", &sets.question), std::pair("answer", &sets.answer)}) {
    MeasuredSet set{.name = name};
    const auto& measured = data_.measured();
    for (const std::int64_t p : *positions)
      if (const auto it = std::lower_bound(measured.begin(), measured.end(), p); it != measured.end() && *it == p)
        set.rows.push_back(it - measured.begin());
    set.complete = set.rows.size() == positions->size() && !sets.retrospective;
    out.push_back(std::move(set));
  }
  return out;
}

void Job::project() {
  table_.residual = data_.residual_norm();
  table_.output = data_.projected_norm();
  table_.nll = data_.nll();
  if (!data_.source().has(sim::Signal::output_projection)) return;
  table_.shift = Array<double, 2>({card_.layers, measured_});
  for (std::int64_t l = 0; l < card_.layers; ++l) {
    Array<float, 2>& difference = outputs_[static_cast<std::size_t>(l)];
    const Array<float, 2>& reference = data_.reference_output(l);
    for (std::int64_t i = 0; i < difference.size(); ++i) difference.data()[i] -= reference.data()[i];
    const kernels::PackedLinear& w = *data_.run().packed_projection(l);
    Array<float, 2> y({measured_, w.outputs()});
    kernels::linear(w, difference, y.view());
    for (std::int64_t row = 0; row < measured_; ++row) {
      double sum = 0;
      const float* values = &y(row, 0);
      for (std::int64_t d = 0; d < y.extent(1); ++d)
        sum += static_cast<double>(values[d]) * static_cast<double>(values[d]);
      table_.shift(l, row) = std::sqrt(sum);
    }
  }
}

OpenOutcome Job::finish() {
  const std::int64_t moment = compression_moment(data_.info().segments, data_.tokens(), job_.protocol);
  prefill(moment);
  moment_figures(moment);
  tail(moment);

  const sim::Ledger ledger = cache_.ledger();
  ledger.check();
  out_.full_end_bytes = ledger.full_bytes;
  out_.stored_end_bytes = ledger.stored_bytes();
  out_.moved_bytes = ledger.moved_bytes;
  out_.kept_at_end = slot_counts(cache_);
  out_.requested = summary(run_.requested());
  out_.effective = summary(run_.effective());
  out_.slots_called = run_.slots_called();
  out_.nan_scores = run_.nan_scores();
  out_.touched_bytes = ledger.touched_bytes;

  project();
  const std::vector<MeasuredSet> sets = measured_sets();
  if (options_.on_rows) options_.on_rows(table_, sets);
  out_.metrics = figures(table_, sets, out_.not_measured);
  out_.spans = spans_.outcomes(cache_);
  for (const auto& [kind, kept] : spans_.kept_by_kind(out_.spans))
    out_.metrics["span_kept_frac." + kind] = Metric{.value = kept.first, .n = kept.second};
  out_.state_heads = cache_.heads();
  if (options_.token_states)
    for (std::int64_t l = 0; l < card_.layers; ++l) {
      out_.k_states.emplace_back();
      out_.v_states.emplace_back();
      for (std::int64_t h = 0; h < cache_.heads(); ++h) {
        out_.k_states.back().push_back(cache_.token_states(l, h, sim::Part::key));
        out_.v_states.back().push_back(cache_.token_states(l, h, sim::Part::value));
      }
    }
  return std::move(out_);
}

}  // namespace

OpenOutcome run_open(const SequenceData& data, const OpenJob& job, const OpenOptions& options) {
  for (const sim::Signal signal : sim::needed_signals(*job.policy))
    if (!data.source().has(signal))
      throw Error(Category::usage, {.doing = "replaying",
                                    .on = fmt::format("{}, sequence {}", sim::typed_text(*job.policy), data.id()),
                                    .found = fmt::format("a need for signal {}", sim::signal_name(signal)),
                                    .expected = "a recording that has it"});
  return Job(data, job, options).finish();
}

double oracle_excess(const std::vector<GroupRecall>& recall) {
  double worst = 0;
  for (const GroupRecall& r : recall) worst = std::max(worst, r.kept_mass - r.oracle_mass);
  return worst;
}

}  // namespace kvgrind::replay
