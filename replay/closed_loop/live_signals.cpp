#include "replay/closed_loop/live_signals.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <tuple>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/attention/attention.h"
#include "kernels/norm/norm.h"
#include "kernels/rope/rope.h"

namespace kvgrind::replay {
namespace {

constexpr std::int64_t copy_rows = 64;  // of one piece of work

// sums[j] += Σ over the block's rows of p(·, j), for keys below `reach`; summed within the block first, as the recorder
// does.
void add_block(View<const float, 2> p, std::int64_t reach, std::vector<float>& block, std::vector<float>& sums) {
  block.assign(static_cast<std::size_t>(reach), 0.0f);
  float* const sum = block.data();
  for (std::int64_t i = 0; i < p.extent(0); ++i) {
    const float* const row = p.data() + i * p.stride(0);
    for (std::int64_t j = 0; j < reach; ++j) sum[j] += row[j];
  }
  for (std::int64_t j = 0; j < reach; ++j) sums[static_cast<std::size_t>(j)] += sum[j];
}

void append_queries(View<const float, 3> q, std::vector<float>& out) {
  const std::int64_t n = q.extent(0), heads = q.extent(1), dim = q.extent(2);
  const auto old_size = static_cast<std::int64_t>(out.size());
  out.resize(static_cast<std::size_t>(old_size + n * heads * dim));  // grows geometrically
  float* to = out.data() + old_size;
  parallel_for((n + copy_rows - 1) / copy_rows, [&](std::int64_t block) {
    for (std::int64_t t = block * copy_rows; t < std::min(n, (block + 1) * copy_rows); ++t)
      for (std::int64_t h = 0; h < heads; ++h) {
        const float* from = &q(t, h, 0);
        float* row = to + (t * heads + h) * dim;
        if (q.stride(2) == 1)
          std::copy_n(from, dim, row);
        else
          for (std::int64_t d = 0; d < dim; ++d) row[d] = q(t, h, d);
      }
  });
}

void append_norms(View<const float, 2> x, std::vector<float>& out) {
  const std::size_t old = out.size();
  const std::int64_t n = x.extent(0);
  out.resize(old + static_cast<std::size_t>(n));
  const std::span<float> to_norms = std::span(out).subspan(old);
  parallel_for((n + copy_rows - 1) / copy_rows, [&](std::int64_t block) {
    const std::int64_t first = block * copy_rows, count = std::min(copy_rows, n - first);
    kernels::l2_norms(x.slice(first, count),
                      to_norms.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
  });
}

// Mean, moduli and second moment of the rows of q, summed in double in the order of the rows.
sim::QueryStatistics statistics_of(View<const float, 2> q, std::int64_t rotary_dim) {
  const std::int64_t n = q.extent(0), dim = q.extent(1), half = rotary_dim / 2;
  sim::QueryStatistics out;
  out.n = n;
  out.mean.resize(static_cast<std::size_t>(dim));
  out.mean_modulus.resize(static_cast<std::size_t>(dim / 2));
  out.second_moment = Array<float, 2>({dim, dim});
  if (n == 0) return out;
  Array<double, 1> mean({dim}), modulus({dim / 2});
  Array<double, 2> moment({dim, dim}), wide({4, dim});
  for (std::int64_t first = 0; first < n; first += 4) {  // four rows a time, so that a sum is fetched once for all four
    const std::int64_t rows = std::min<std::int64_t>(4, n - first);
    for (std::int64_t i = 0; i < rows; ++i) {
      double* const row = &wide(i, 0);
      for (std::int64_t d = 0; d < dim; ++d) row[d] = q(first + i, d);
      for (std::int64_t d = 0; d < dim; ++d) mean(d) += row[d];
      for (std::int64_t m = 0; m < half; ++m)
        modulus(m) += static_cast<float>(std::sqrt(row[m] * row[m] + row[m + half] * row[m + half]));
    }
    const double *w0 = &wide(0, 0), *w1 = w0 + dim, *w2 = w1 + dim, *w3 = w2 + dim;
    for (std::int64_t a = 0; a < dim; ++a) {  // the upper triangle; a product is the same either way round
      double* const to = &moment(a, 0);
      if (rows == 4) {
        for (std::int64_t b = a; b < dim; ++b)
          to[b] = to[b] + w0[a] * w0[b] + w1[a] * w1[b] + w2[a] * w2[b] + w3[a] * w3[b];
      } else {
        for (std::int64_t i = 0; i < rows; ++i)
          for (std::int64_t b = a; b < dim; ++b) to[b] += wide(i, a) * wide(i, b);
      }
    }
  }
  const auto count = static_cast<double>(n);
  for (std::int64_t d = 0; d < dim; ++d) out.mean[static_cast<std::size_t>(d)] = static_cast<float>(mean(d) / count);
  for (std::int64_t m = 0; m < dim / 2; ++m)
    out.mean_modulus[static_cast<std::size_t>(m)] = static_cast<float>(modulus(m) / count);
  for (std::int64_t a = 0; a < dim; ++a)
    for (std::int64_t b = 0; b < dim; ++b)
      out.second_moment(a, b) = static_cast<float>(moment(std::min(a, b), std::max(a, b)) / count);
  return out;
}

}  // namespace

struct LiveSignals::Cache {
  std::mutex mutex;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::vector<float>> column_sums;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>, sim::QueryStatistics> statistics;
  std::map<std::int64_t, Array<float, 2>> output_projection;
};

Watched Watched::by(std::span<const sim::PolicyPtr> policies) {
  Watched out{.queries = false, .norms = false, .sums = false};
  for (const sim::PolicyPtr& policy : policies)
    for (const sim::Signal signal : sim::needed_signals(*policy)) {
      out.sums |= signal == sim::Signal::column_sums;
      out.norms |= signal == sim::Signal::hidden_norm || signal == sim::Signal::attention_input_norm;
      out.queries |= signal == sim::Signal::queries || signal == sim::Signal::column_sums ||
                     signal == sim::Signal::query_statistics;
    }
  return out;
}

LiveSignals::LiveSignals(std::shared_ptr<const sim::Model> model, std::vector<Segment> segments,
                         std::vector<Span> spans, std::shared_ptr<const LiveSignals> prefix, const Watched& watched)
    : model_(std::move(model)),
      card_(sim::model_config(*model_).card),
      segments_(std::move(segments)),
      spans_(std::move(spans)),
      prefix_(std::move(prefix)),
      watched_(watched),
      layers_(static_cast<std::size_t>(card_.layers)),
      cache_(std::make_unique<Cache>()) {
  for (LayerRows& rows : layers_) {
    if (watched_.sums && !prefix_) rows.sums.resize(static_cast<std::size_t>(card_.query_heads));
    rows.newest.resize(static_cast<std::size_t>(card_.query_heads));
  }
  if (!prefix_) return;
  first_ = end_ = prefix_->end_;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    layers_[l].hidden_norm = prefix_->layers_[l].hidden_norm;
    layers_[l].attn_in_norm = prefix_->layers_[l].attn_in_norm;
  }
}

LiveSignals::~LiveSignals() = default;

TapNeeds LiveSignals::needs(std::int64_t) const {
  constexpr std::int64_t none = TapNeeds::none;
  return {.q = watched_.queries ? 0 : none,
          .q_pre = none,
          .lse = none,
          .input = watched_.norms ? 0 : none,
          .attn_in = watched_.norms ? 0 : none,
          .attn_out = none,
          .output = none};
}

void LiveSignals::begin(const TapPass& pass) {
  assert(pass.first == end_);
  pass_end_ = pass.first + static_cast<std::int64_t>(pass.ids.size());
  for (LayerRows& rows : layers_)
    for (auto& head : rows.sums) head.resize(static_cast<std::size_t>(pass_end_), 0.0f);
}

void LiveSignals::probabilities(const TapProbabilities& block) {
  if (newest_) {
    assert(block.p.extent(0) == 1);
    NewestRow& row = layers_[static_cast<std::size_t>(block.layer)].newest[static_cast<std::size_t>(block.head)];
    row.position = block.first;
    row.p.assign(block.p.data(), block.p.data() + block.p.extent(1));
    row.key_position.assign(block.key_position.begin(), block.key_position.end());
  }
  if (prefix_ || !watched_.sums) return;
  // Keys of a prefix stand at their positions; those behind the last row are zero.
  std::vector<float> sum;
  add_block(block.p, std::min(block.first + block.p.extent(0), block.p.extent(1)), sum,
            layers_[static_cast<std::size_t>(block.layer)].sums[static_cast<std::size_t>(block.head)]);
}

void LiveSignals::layer(const TapLayer& shown) {
  LayerRows& rows = layers_[static_cast<std::size_t>(shown.layer)];
  if (watched_.queries) {
    const std::int64_t announced = segments_.empty() ? 0 : segments_.back().end - first_;
    rows.q.reserve(static_cast<std::size_t>(std::max<std::int64_t>(0, announced) * card_.query_heads * card_.head_dim));
    append_queries(shown.q, rows.q);
  }
  if (!watched_.norms) return;
  append_norms(shown.input, rows.hidden_norm);
  append_norms(shown.attn_in, rows.attn_in_norm);
}

void LiveSignals::end(const TapEnd&) { end_ = pass_end_; }

void LiveSignals::forget_newest() {
  for (LayerRows& rows : layers_)
    for (NewestRow& row : rows.newest) row.position = -1;
}

sim::AttentionRow LiveSignals::newest_attention(std::int64_t layer, std::int64_t head, std::int64_t position) const {
  const NewestRow& row = layers_[static_cast<std::size_t>(layer)].newest[static_cast<std::size_t>(head)];
  if (position < 0 || row.position != position) return {};
  return {row.p, row.key_position};
}

const ModelCard& LiveSignals::card() const { return card_; }

bool LiveSignals::has(sim::Signal signal) const {
  switch (signal) {
    case sim::Signal::future_queries:
      return false;
    case sim::Signal::repeat_probe:
    case sim::Signal::reread_probe:
    case sim::Signal::episode_probe:
      return probes_ && probes_->columns.contains(*probe_kind(signal));
    case sim::Signal::segments:
      return !segments_.empty();
    case sim::Signal::spans:
      return !spans_.empty();
    default:
      return true;
  }
}

Array<float, 2> LiveSignals::queries(std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n) const {
  Array<float, 2> out({n, card_.head_dim});
  copy_queries(layer, head, first, out.view());
  return out;
}

void LiveSignals::copy_queries(std::int64_t layer, std::int64_t head, std::int64_t first, View<float, 2> to) const {
  const std::int64_t n = to.extent(0), dim = card_.head_dim, heads = card_.query_heads;
  // Within a layer the newest rows are known before the pass ends, so the rows themselves say what is there.
  const auto& rows = layers_[static_cast<std::size_t>(layer)].q;
  const std::int64_t known = first_ + static_cast<std::int64_t>(rows.size()) / (heads * dim);
  if (first < 0 || first + n > known)
    throw Error(Category::usage, {.doing = "reading signal queries",
                                  .on = fmt::format("layer {}, query head {}", layer, head),
                                  .found = fmt::format("positions [{}, {}) asked", first, first + n),
                                  .expected = fmt::format("within [0, {})", known)});
  const std::int64_t below = std::clamp<std::int64_t>(first_ - first, 0, n);
  if (below > 0) prefix_->copy_queries(layer, head, first, to.slice(0, below));
  for (std::int64_t t = below; t < n; ++t) {
    const std::int64_t row = first + t - first_;
    std::copy_n(rows.data() + (row * heads + head) * dim, dim, to.data() + t * to.stride(0));
  }
}

std::vector<float> LiveSignals::column_sums(std::int64_t layer, std::int64_t head, std::int64_t until) const {
  if (prefix_ && until <= prefix_->end_) return prefix_->column_sums(layer, head, until);
  if (watched_.sums && !prefix_ && until == end_)
    return layers_[static_cast<std::size_t>(layer)].sums[static_cast<std::size_t>(head)];
  if (!full_cache_)
    throw Error(Category::usage, {.doing = "reading signal column_sums",
                                  .found = fmt::format("{} positions asked beyond the uncompressed prefix", until),
                                  .expected = "positions of the prefix: later attention is the policy's own"});
  const auto key = std::tuple(layer, head, until);
  {
    const std::lock_guard lock(cache_->mutex);
    if (const auto it = cache_->column_sums.find(key); it != cache_->column_sums.end()) return it->second;
  }
  const Array<float, 2> q = queries(layer, head, 0, until);
  std::vector<std::int64_t> position(static_cast<std::size_t>(until));
  std::iota(position.begin(), position.end(), 0);
  const std::int64_t cache_head = head * full_cache_->heads() / card_.query_heads;
  const sim::GroupSlots& slots = full_cache_->group(layer, cache_head);
  if (slots.size() < until || (until > 0 && slots.position[static_cast<std::size_t>(until - 1)] != until - 1))
    throw Error(Category::usage, {.doing = "reading signal column_sums",
                                  .on = fmt::format("layer {}, query head {}", layer, head),
                                  .found = fmt::format("sums over {} positions asked, some of them not kept", until),
                                  .expected = "a cache that holds all of them"});
  std::vector<float> sums(static_cast<std::size_t>(until), 0.0f);
  kernels::AttentionParams params;
  params.q = q;
  params.q_position = position;
  params.k = slots.keys().slice(0, until);
  params.v = slots.values().slice(0, until);
  params.k_position = std::span(slots.position).first(static_cast<std::size_t>(until));
  params.scale = card_.scale;
  params.softcap = card_.softcap;
  params.window = card_.layer[static_cast<std::size_t>(layer)].window;
  if (!card_.sinks.empty()) params.sink = &card_.sinks[static_cast<std::size_t>(layer * card_.query_heads + head)];
  std::vector<float> block;
  params.probabilities = [&](std::int64_t row, View<const float, 2> p) {
    add_block(p, std::min(row + p.extent(0), until), block, sums);
  };
  kernels::attention(params);
  const std::lock_guard lock(cache_->mutex);
  return cache_->column_sums.emplace(key, std::move(sums)).first->second;
}

sim::QueryStatistics LiveSignals::query_statistics(std::int64_t layer, std::int64_t head, std::int64_t skip,
                                                   std::int64_t until) const {
  if (prefix_ && until <= prefix_->end_) return prefix_->query_statistics(layer, head, skip, until);
  const auto key = [&](std::int64_t h) { return std::tuple(layer, h, skip, until); };
  {
    const std::lock_guard lock(cache_->mutex);
    if (const auto it = cache_->statistics.find(key(head)); it != cache_->statistics.end()) return it->second;
  }
  // All heads that share a KV head: who asks for one asks for the others, and they are turned back together.
  const std::int64_t n = std::max<std::int64_t>(0, until - skip), dim = card_.head_dim, heads = card_.group();
  const std::int64_t first_head = head / heads * heads;
  Array<float, 3> q({n, heads, dim});
  for (std::int64_t h = 0; h < heads; ++h)
    copy_queries(layer, first_head + h, skip, {q.data() + h * dim, {n, dim}, {heads * dim, 1}});
  std::vector<std::int64_t> position(static_cast<std::size_t>(n));
  std::iota(position.begin(), position.end(), skip);
  const auto& set = card_.rope[static_cast<std::size_t>(card_.layer[static_cast<std::size_t>(layer)].rope_set)];
  kernels::rope_undo(set, position, q.view());
  for (std::int64_t h = 0; h < heads; ++h) {
    sim::QueryStatistics out = statistics_of({q.data() + h * dim, {n, dim}, {heads * dim, 1}}, set.rotary_dim());
    const std::lock_guard lock(cache_->mutex);
    cache_->statistics.emplace(key(first_head + h), std::move(out));
  }
  const std::lock_guard lock(cache_->mutex);
  return cache_->statistics.at(key(head));
}

std::vector<ProbeColumns> LiveSignals::probes(std::int64_t layer, std::int64_t head, sim::Signal kind) const {
  if (!has(kind)) return sim::SignalSource::probes(layer, head, kind);  // says what is missing
  return probes_->columns.at(*probe_kind(kind))[static_cast<std::size_t>(layer * card_.query_heads + head)];
}

std::pair<std::int64_t, std::int64_t> LiveSignals::future(std::int64_t moment) const { return {moment, moment}; }

std::span<const float> LiveSignals::hidden_norm(std::int64_t layer) const {
  return layers_[static_cast<std::size_t>(layer)].hidden_norm;
}

std::span<const float> LiveSignals::attention_input_norm(std::int64_t layer) const {
  return layers_[static_cast<std::size_t>(layer)].attn_in_norm;
}

const Array<float, 2>& LiveSignals::output_projection(std::int64_t layer) const {
  if (prefix_) return prefix_->output_projection(layer);
  const std::lock_guard lock(cache_->mutex);
  const auto it = cache_->output_projection.find(layer);
  if (it != cache_->output_projection.end()) return it->second;
  return cache_->output_projection.emplace(layer, sim::output_projection(*model_, layer)).first->second;
}

}  // namespace kvgrind::replay
