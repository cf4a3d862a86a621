#include "replay/open_loop/open_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>
#include <tuple>

#include "core/error.h"
#include "kernels/attention/attention.h"
#include "kernels/rope/rope.h"
#include "replay/probe/probe_plan.h"

namespace kvgrind::replay {
namespace {

constexpr std::int64_t query_limit_bytes = 512ll << 20;
constexpr std::int64_t recorded_skip = 4;  // tokens that recorded statistics leave out

[[noreturn]] void missing(sim::Signal signal, const std::string& on, const std::string& found,
                          const std::string& expected, const std::string& next = "") {
  throw Error(Category::usage, {.doing = fmt::format("reading signal {}", sim::signal_name(signal)),
                                .on = on,
                                .found = found,
                                .expected = expected,
                                .next = next});
}

// Weighted mean of recorded segment rows; exact up to fp32 rounding of the rows.
sim::QueryStatistics combine(const std::vector<const traces::QueryStatisticsRow*>& rows, std::int64_t dim) {
  std::vector<double> mean(static_cast<std::size_t>(dim)), modulus(static_cast<std::size_t>(dim / 2)),
      moment(static_cast<std::size_t>(dim * dim));
  sim::QueryStatistics out;
  for (const auto* row : rows) {
    const auto n = static_cast<double>(row->n);
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += n * static_cast<double>(row->mean[i]);
    for (std::size_t i = 0; i < modulus.size(); ++i) modulus[i] += n * static_cast<double>(row->mean_modulus[i]);
    for (std::size_t i = 0; i < moment.size(); ++i) moment[i] += n * static_cast<double>(row->second_moment.data()[i]);
    out.n += row->n;
  }
  const double scale = out.n > 0 ? 1.0 / static_cast<double>(out.n) : 0.0;
  const auto scaled = [scale](const std::vector<double>& in, float* to) {
    for (std::size_t i = 0; i < in.size(); ++i) to[i] = static_cast<float>(in[i] * scale);
  };
  out.mean.resize(mean.size());
  out.mean_modulus.resize(modulus.size());
  out.second_moment = Array<float, 2>({dim, dim});
  scaled(mean, out.mean.data());
  scaled(modulus, out.mean_modulus.data());
  scaled(moment, out.second_moment.data());
  return out;
}

// Statistics of pre-RoPE queries q [n, D], one row per position.
sim::QueryStatistics statistics_of(View<const float, 2> q, const RopeSet& set) {
  const std::int64_t n = q.extent(0), dim = q.extent(1), half = set.rotary_dim() / 2;
  traces::QueryStatisticsRow row;
  row.n = n;
  std::vector<double> mean(static_cast<std::size_t>(dim)), modulus(static_cast<std::size_t>(dim / 2)),
      moment(static_cast<std::size_t>(dim * dim));
  for (std::int64_t t = 0; t < n; ++t) {
    for (std::int64_t a = 0; a < dim; ++a) {
      const auto qa = static_cast<double>(q(t, a));
      mean[static_cast<std::size_t>(a)] += qa;
      for (std::int64_t b = 0; b < dim; ++b)
        moment[static_cast<std::size_t>(a * dim + b)] += qa * static_cast<double>(q(t, b));
    }
    for (std::int64_t m = 0; m < half; ++m)
      modulus[static_cast<std::size_t>(m)] +=
          std::hypot(static_cast<double>(q(t, m)), static_cast<double>(q(t, m + half)));
  }
  const double scale = n > 0 ? 1.0 / static_cast<double>(n) : 0.0;
  row.mean.resize(mean.size());
  row.mean_modulus.resize(modulus.size());
  row.second_moment = Array<float, 2>({dim, dim});
  for (std::size_t i = 0; i < mean.size(); ++i) row.mean[i] = static_cast<float>(mean[i] * scale);
  for (std::size_t i = 0; i < modulus.size(); ++i) row.mean_modulus[i] = static_cast<float>(modulus[i] * scale);
  for (std::size_t i = 0; i < moment.size(); ++i) row.second_moment.data()[i] = static_cast<float>(moment[i] * scale);
  sim::QueryStatistics out;
  out.n = n;
  out.mean = std::move(row.mean);
  out.mean_modulus = std::move(row.mean_modulus);
  out.second_moment = std::move(row.second_moment);
  return out;
}

}  // namespace

struct OpenSource::State {
  std::shared_ptr<const RecordedRun> run;
  traces::SequenceInfo info;
  std::vector<std::int64_t> recorded;  // query positions
  bool projection = false, sums = false, statistics = false;
  std::vector<std::vector<float>> hidden, attention_input;  // [L]

  using Head = std::pair<std::int64_t, std::int64_t>;
  std::mutex mutex;
  std::map<Head, std::shared_ptr<const traces::RecordedQueries>> queries;
  std::map<std::int64_t, Array<float, 2>> lse;  // by layer, [T, Hq]
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::vector<float>> column_sums;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>, sim::QueryStatistics> query_statistics;
  std::map<std::tuple<std::int64_t, std::int64_t, ProbeKind>, std::vector<ProbeColumns>> probes;
  std::int64_t query_bytes = 0;

  std::string place(std::int64_t layer, std::int64_t head) const {
    return fmt::format("sequence {}, layer {}, query head {}", info.id, layer, head);
  }

  std::shared_ptr<const traces::RecordedQueries> recorded_queries(std::int64_t layer, std::int64_t head) {
    {
      const std::lock_guard lock(mutex);
      if (const auto it = queries.find({layer, head}); it != queries.end()) return it->second;
    }
    auto read = std::make_shared<const traces::RecordedQueries>(run->queries(info.id, layer, head));
    const std::lock_guard lock(mutex);
    const std::int64_t bytes = read->q.size() * 4;
    if (query_bytes + bytes > query_limit_bytes) return read;  // long recordings: read again when asked again
    const auto [it, fresh] = queries.emplace(Head{layer, head}, std::move(read));
    if (fresh) query_bytes += bytes;
    return it->second;
  }

  bool card_has_heads() const { return run->card().layers > 0 && run->card().query_heads > 0; }

  std::vector<ProbeColumns> probes_of(std::int64_t layer, std::int64_t head, ProbeKind kind) {
    const auto key = std::tuple(layer, head, kind);
    {
      const std::lock_guard lock(mutex);
      if (const auto it = probes.find(key); it != probes.end()) return it->second;
    }
    std::vector<ProbeColumns> read = run->probes(info.id, layer, head, kind);
    const std::lock_guard lock(mutex);
    return probes.emplace(key, std::move(read)).first->second;
  }

  bool covered(std::int64_t first, std::int64_t n) const {
    if (n <= 0) return true;
    const auto begin = std::lower_bound(recorded.begin(), recorded.end(), first);
    return recorded.end() - begin >= n && *begin == first && *(begin + (n - 1)) == first + n - 1;
  }
};

OpenSource::OpenSource(std::shared_ptr<const RecordedRun> run, std::int64_t sequence)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.run = std::move(run);
  s.info = find_sequence(*s.run, sequence);
  const ModelCard& card = s.run->card();
  if (card.layers > 0 && card.query_heads > 0) {
    s.recorded = s.recorded_queries(0, 0)->position;
    s.projection = s.run->output_projection(0) != nullptr;
    s.sums = s.run->column_sums(sequence, 0, -1).has_value();
    s.statistics = !s.run->query_statistics(sequence, 0, 0).empty();
  }
  for (std::int64_t l = 0; l < card.layers; ++l) {
    s.hidden.push_back(s.run->hidden_norm(sequence, l));
    s.attention_input.push_back(s.run->attention_input_norm(sequence, l));
  }
}

OpenSource::~OpenSource() = default;
OpenSource::OpenSource(OpenSource&&) noexcept = default;

const ModelCard& OpenSource::card() const { return state_->run->card(); }

bool OpenSource::has(sim::Signal signal) const {
  State& s = *state_;
  const bool all_queries = s.covered(0, s.info.tokens);
  switch (signal) {
    case sim::Signal::queries:
    case sim::Signal::future_queries:
      return !s.recorded.empty();
    case sim::Signal::column_sums:
      return s.sums || all_queries;
    case sim::Signal::query_statistics:
      return s.statistics || all_queries;
    case sim::Signal::hidden_norm:
      return !s.hidden.empty() && !s.hidden[0].empty();
    case sim::Signal::attention_input_norm:
      return !s.attention_input.empty() && !s.attention_input[0].empty();
    case sim::Signal::output_projection:
      return s.projection;
    case sim::Signal::segments:
      return !s.info.segments.empty();
    case sim::Signal::spans:
      return !s.info.spans.empty();
    case sim::Signal::repeat_probe:
    case sim::Signal::reread_probe:
    case sim::Signal::episode_probe:
      return s.card_has_heads() && !s.probes_of(0, 0, *probe_kind(signal)).empty();
  }
  return false;
}

Array<float, 2> OpenSource::queries(std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n) const {
  State& s = *state_;
  const auto read = s.recorded_queries(layer, head);
  const auto begin = std::lower_bound(read->position.begin(), read->position.end(), first);
  const auto row = begin - read->position.begin();
  const auto have = static_cast<std::int64_t>(read->position.end() - begin);
  if (n > 0 && (have < n || *begin != first || *(begin + (n - 1)) != first + n - 1))
    missing(sim::Signal::queries, s.place(layer, head), fmt::format("positions [{}, {}) asked", first, first + n),
            fmt::format("recorded ones ({} of {} positions)", read->position.size(), s.info.tokens),
            "record with --queries all");
  const std::int64_t dim = read->q.extent(1);
  Array<float, 2> out({n, dim});
  std::copy_n(read->q.data() + row * dim, n * dim, out.data());
  return out;
}

std::vector<float> OpenSource::column_sums(std::int64_t layer, std::int64_t head, std::int64_t until) const {
  State& s = *state_;
  const auto key = std::tuple(layer, head, until);
  {
    const std::lock_guard lock(s.mutex);
    if (const auto it = s.column_sums.find(key); it != s.column_sums.end()) return it->second;
  }
  std::vector<float> sums(static_cast<std::size_t>(until), 0.0f);
  // Recorded per segment: usable when whole segments cover [0, until).
  bool recorded = s.sums;
  const auto add = [&](std::int64_t segment) {
    const auto sum = s.run->column_sums(s.info.id, layer, segment);
    recorded = recorded && sum.has_value();
    for (std::int64_t j = 0; recorded && j < until; ++j) sums[static_cast<std::size_t>(j)] += (*sum)(head, j);
  };
  if (s.info.segments.empty()) {
    recorded = recorded && until == s.info.tokens;
    if (recorded) add(-1);
  } else {
    std::int64_t covered = 0;
    for (const Segment& segment : s.info.segments)
      if (segment.begin == covered && segment.end <= until) covered = segment.end;
    recorded = recorded && covered == until;
    for (std::size_t i = 0; recorded && i < s.info.segments.size() && s.info.segments[i].end <= until; ++i)
      add(static_cast<std::int64_t>(i));
  }
  if (!recorded) {
    if (!s.covered(0, until))
      missing(sim::Signal::column_sums, s.place(layer, head),
              fmt::format("sums over queries before {} asked, which are not recorded", until),
              "sums of whole segments, or every query to compute them from", "record with --queries all");
    std::fill(sums.begin(), sums.end(), 0.0f);
    const Array<float, 2> q = queries(layer, head, 0, until);
    const std::int64_t kv_head = head / card().group();
    const Array<float, 2> k = s.run->keys(s.info.id, layer, kv_head);
    std::vector<std::int64_t> position(static_cast<std::size_t>(until));
    std::iota(position.begin(), position.end(), 0);
    kernels::AttentionParams params;
    params.q = q;
    params.q_position = position;
    params.k = k.view().slice(0, until);
    params.v = params.k;  // no output wanted
    params.k_position = position;
    params.scale = card().scale;
    params.softcap = card().softcap;
    params.window = card().layer[static_cast<std::size_t>(layer)].window;
    if (!card().sinks.empty()) params.sink = &card().sinks[static_cast<std::size_t>(layer * card().query_heads + head)];
    params.probabilities = [&sums](std::int64_t, View<const float, 2> p) {
      for (std::int64_t j = 0; j < p.extent(1); ++j) {
        float block = 0.0f;  // within the block first, as the recorder sums
        for (std::int64_t i = 0; i < p.extent(0); ++i) block += p(i, j);
        sums[static_cast<std::size_t>(j)] += block;
      }
    };
    kernels::attention(params);
  }
  const std::lock_guard lock(s.mutex);
  return s.column_sums.emplace(key, std::move(sums)).first->second;
}

sim::QueryStatistics OpenSource::query_statistics(std::int64_t layer, std::int64_t head, std::int64_t skip,
                                                  std::int64_t until) const {
  State& s = *state_;
  const auto key = std::tuple(layer, head, skip, until);
  {
    const std::lock_guard lock(s.mutex);
    if (const auto it = s.query_statistics.find(key); it != s.query_statistics.end()) return it->second;
  }
  sim::QueryStatistics out;
  bool recorded = false;
  if (skip == recorded_skip && s.statistics) {
    const auto rows = s.run->query_statistics(s.info.id, layer, head);
    std::vector<const traces::QueryStatisticsRow*> used;
    std::int64_t counted = 0;
    for (const auto& row : rows)
      if (row.end <= until) {
        used.push_back(&row);
        counted += row.n;
      }
    recorded = !used.empty() && counted == until - skip;
    if (recorded) out = combine(used, card().head_dim);
  }
  if (!recorded) {
    const std::int64_t n = std::max<std::int64_t>(0, until - skip);
    if (!s.covered(skip, n))
      missing(sim::Signal::query_statistics, s.place(layer, head),
              fmt::format("statistics over [{}, {}) asked, whose queries are not recorded", skip, until),
              fmt::format("recorded rows (first {} tokens left out, whole segments), or every query", recorded_skip),
              "record with --queries all");
    Array<float, 2> q = queries(layer, head, skip, n);
    std::vector<std::int64_t> position(static_cast<std::size_t>(n));
    std::iota(position.begin(), position.end(), skip);
    const RopeSet& set = card().rope[static_cast<std::size_t>(card().layer[static_cast<std::size_t>(layer)].rope_set)];
    kernels::rope_undo(set, position, View<float, 3>(q.data(), {n, 1, card().head_dim}));
    out = statistics_of(q, set);
  }
  const std::lock_guard lock(s.mutex);
  return s.query_statistics.emplace(key, std::move(out)).first->second;
}

std::vector<float> OpenSource::log_sum_exp(std::int64_t layer, std::int64_t head, std::int64_t first,
                                           std::int64_t n) const {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  auto it = s.lse.find(layer);
  if (it == s.lse.end()) it = s.lse.emplace(layer, s.run->lse(s.info.id, layer)).first;
  std::vector<float> out;
  if (it->second.extent(0) < first + n) return out;
  for (std::int64_t i = first; i < first + n; ++i) out.push_back(it->second(i, head));
  return out;
}

std::vector<ProbeColumns> OpenSource::probes(std::int64_t layer, std::int64_t head, sim::Signal kind) const {
  std::vector<ProbeColumns> out = state_->probes_of(layer, head, *probe_kind(kind));
  if (out.empty()) return sim::SignalSource::probes(layer, head, kind);  // says what is missing
  return out;
}

std::pair<std::int64_t, std::int64_t> OpenSource::future(std::int64_t moment) const {
  const State& s = *state_;
  std::int64_t begin = s.info.tokens;
  for (auto it = s.recorded.rbegin(); it != s.recorded.rend() && *it == begin - 1 && *it >= moment; ++it) begin = *it;
  return {begin, s.info.tokens};
}

std::span<const float> OpenSource::hidden_norm(std::int64_t layer) const {
  const auto& norms = state_->hidden[static_cast<std::size_t>(layer)];
  if (norms.empty())
    missing(sim::Signal::hidden_norm, fmt::format("sequence {}", state_->info.id), "no norms", "a recording with them");
  return norms;
}

std::span<const float> OpenSource::attention_input_norm(std::int64_t layer) const {
  const auto& norms = state_->attention_input[static_cast<std::size_t>(layer)];
  if (norms.empty())
    missing(sim::Signal::attention_input_norm, fmt::format("sequence {}", state_->info.id), "no norms",
            "a recording with them");
  return norms;
}

const Array<float, 2>& OpenSource::output_projection(std::int64_t layer) const {
  if (const Array<float, 2>* stored = state_->run->output_projection(layer)) return *stored;
  missing(sim::Signal::output_projection, fmt::format("layer {}", layer), "no W_O in the recording",
          "a recording that stores it", "replay with --model DIR");
}

std::span<const Segment> OpenSource::segments() const { return state_->info.segments; }
std::span<const Span> OpenSource::spans() const { return state_->info.spans; }
const std::vector<std::int64_t>& OpenSource::recorded_positions() const { return state_->recorded; }

}  // namespace kvgrind::replay
