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
  for (LayerRows& rows : layers_)
    if (wants_probabilities(0)) rows.sums.resize(static_cast<std::size_t>(card_.query_heads));
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
  // Keys of a prefix stand at their positions; those behind the last row are zero.
  std::vector<float> sum;
  add_block(block.p, std::min(block.first + block.p.extent(0), block.p.extent(1)), sum,
            layers_[static_cast<std::size_t>(block.layer)].sums[static_cast<std::size_t>(block.head)]);
}

void LiveSignals::layer(const TapLayer& shown) {
  LayerRows& rows = layers_[static_cast<std::size_t>(shown.layer)];
  if (watched_.queries) append_queries(shown.q, rows.q);
  if (!watched_.norms) return;
  append_norms(shown.input, rows.hidden_norm);
  append_norms(shown.attn_in, rows.attn_in_norm);
}

void LiveSignals::end(const TapEnd&) { end_ = pass_end_; }

const ModelCard& LiveSignals::card() const { return card_; }

bool LiveSignals::has(sim::Signal signal) const {
  switch (signal) {
    case sim::Signal::future_queries:
      return false;
    case sim::Signal::repeat_probe:
    case sim::Signal::reread_probe:
      return false;
    case sim::Signal::segments:
      return !segments_.empty();
    case sim::Signal::spans:
      return !spans_.empty();
    default:
      return true;
  }
}

Array<float, 2> LiveSignals::queries(std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n) const {
  const std::int64_t dim = card_.head_dim, heads = card_.query_heads;
  // Within a layer the newest rows are known before the pass ends, so the rows themselves say what is there.
  const auto& rows = layers_[static_cast<std::size_t>(layer)].q;
  const std::int64_t known = first_ + static_cast<std::int64_t>(rows.size()) / (heads * dim);
  if (first < 0 || first + n > known)
    throw Error(Category::usage, {.doing = "reading signal queries",
                                  .on = fmt::format("layer {}, query head {}", layer, head),
                                  .found = fmt::format("positions [{}, {}) asked", first, first + n),
                                  .expected = fmt::format("within [0, {})", known)});
  Array<float, 2> out({n, dim});
  const std::int64_t below = std::clamp<std::int64_t>(first_ - first, 0, n);
  if (below > 0) {
    const Array<float, 2> front = prefix_->queries(layer, head, first, below);
    std::copy_n(front.data(), below * dim, out.data());
  }
  for (std::int64_t t = below; t < n; ++t) {
    const std::int64_t row = first + t - first_;
    std::copy_n(rows.data() + (row * heads + head) * dim, dim, out.data() + t * dim);
  }
  return out;
}

std::vector<float> LiveSignals::column_sums(std::int64_t layer, std::int64_t head, std::int64_t until) const {
  if (prefix_ && until <= prefix_->end_) return prefix_->column_sums(layer, head, until);
  if (wants_probabilities(layer) && until == end_)
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
  const auto key = std::tuple(layer, head, skip, until);
  {
    const std::lock_guard lock(cache_->mutex);
    if (const auto it = cache_->statistics.find(key); it != cache_->statistics.end()) return it->second;
  }
  const std::int64_t n = std::max<std::int64_t>(0, until - skip), dim = card_.head_dim;
  Array<float, 2> q = n > 0 ? queries(layer, head, skip, n) : Array<float, 2>({0, dim});
  std::vector<std::int64_t> position(static_cast<std::size_t>(n));
  std::iota(position.begin(), position.end(), skip);
  const auto& set = card_.rope[static_cast<std::size_t>(card_.layer[static_cast<std::size_t>(layer)].rope_set)];
  kernels::rope_undo(set, position, View<float, 3>(q.data(), {n, 1, dim}));

  sim::QueryStatistics out;
  out.n = n;
  out.mean.resize(static_cast<std::size_t>(dim));
  out.mean_modulus.resize(static_cast<std::size_t>(dim / 2));
  out.second_moment = Array<float, 2>({dim, dim});
  if (n > 0) {
    std::vector<double> mean(static_cast<std::size_t>(dim)), modulus(static_cast<std::size_t>(dim / 2)),
        moment(static_cast<std::size_t>(dim * dim));
    const std::int64_t half = set.rotary_dim() / 2;
    std::vector<double> wide(static_cast<std::size_t>(dim));
    for (std::int64_t t = 0; t < n; ++t) {
      const float* row = q.data() + t * dim;
      std::copy_n(row, dim, wide.data());
      for (std::int64_t a = 0; a < dim; ++a) {  // the upper triangle; a product is the same either way round
        const double at_a = wide[static_cast<std::size_t>(a)];
        mean[static_cast<std::size_t>(a)] += at_a;
        double* const to = moment.data() + a * dim;
        for (std::int64_t b = a; b < dim; ++b) to[b] += at_a * wide[static_cast<std::size_t>(b)];
      }
      for (std::int64_t m = 0; m < half; ++m) modulus[static_cast<std::size_t>(m)] += std::hypot(row[m], row[m + half]);
    }
    for (std::int64_t a = 0; a < dim; ++a)
      for (std::int64_t b = 0; b < a; ++b)
        moment[static_cast<std::size_t>(a * dim + b)] = moment[static_cast<std::size_t>(b * dim + a)];
    for (std::size_t i = 0; i < mean.size(); ++i) out.mean[i] = static_cast<float>(mean[i] / static_cast<double>(n));
    for (std::size_t i = 0; i < modulus.size(); ++i)
      out.mean_modulus[i] = static_cast<float>(modulus[i] / static_cast<double>(n));
    for (std::size_t i = 0; i < moment.size(); ++i)
      out.second_moment.data()[i] = static_cast<float>(moment[i] / static_cast<double>(n));
  }
  const std::lock_guard lock(cache_->mutex);
  return cache_->statistics.emplace(key, std::move(out)).first->second;
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
