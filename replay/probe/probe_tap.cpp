#include "replay/probe/probe_tap.h"

#include <fmt/format.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/norm/norm.h"

namespace kvgrind::replay {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr std::int64_t block_rows = 64;

// Keys of one cache head that the pass's softmax sees, ascending; those measured are [first, last) of them. A layer
// with a window may have let go of some.
struct SeenKeys {
  Rows k;
  std::vector<std::int64_t> position;
  std::int64_t first = 0, last = 0;
};

SeenKeys keys_of(const sim::GroupView& view, const ProbePass& pass) {
  SeenKeys out;
  std::vector<std::int64_t> slots;
  const auto take = [&](std::int64_t begin, std::int64_t end) {
    const auto first = std::lower_bound(view.position.begin(), view.position.end(), begin);
    for (auto it = first; it != view.position.end() && *it < end; ++it) {
      slots.push_back(it - view.position.begin());
      out.position.push_back(*it);
    }
  };
  take(0, std::min(pass.sinks, pass.begin));
  out.first = static_cast<std::int64_t>(slots.size());
  take(pass.begin, pass.end);
  out.last = static_cast<std::int64_t>(slots.size());
  if (pass.kind == ProbeKind::episode && pass.end < pass.first) take(pass.end, pass.first);
  if (pass.kind == ProbeKind::repeat) take(pass.first, pass.first + pass.fed);
  const std::int64_t dim = view.k.extent(1);
  out.k.resize(static_cast<Eigen::Index>(slots.size()), dim);
  for (std::size_t j = 0; j < slots.size(); ++j)
    std::copy_n(&view.k(slots[j], 0), dim, out.k.data() + static_cast<std::int64_t>(j) * dim);
  return out;
}

}  // namespace

ProbeTap::ProbeTap(const ModelCard& card, const ProbePass& pass, const sim::KvCache& cache)
    : card_(card), pass_(pass), cache_(cache) {
  for (int s = 0; s < probe_statistics; ++s)
    places_.push_back((measured_statistics(pass.kind) >> s & 1u) != 0 ? static_cast<int>(measured_++) : -1);
  values_.resize(static_cast<std::size_t>(card.layers * card.query_heads));
  for (std::vector<float>& one : values_) one.assign(static_cast<std::size_t>(measured_ * keys()), 0.0f);
}

float* ProbeTap::column(std::int64_t layer, std::int64_t head, int statistic) {
  const int place = places_[static_cast<std::size_t>(statistic)];
  if (place < 0) return nullptr;
  return values_[static_cast<std::size_t>(layer * card_.query_heads + head)].data() + place * keys();
}

void ProbeTap::begin(const TapPass& fed) { fed_first_ = fed.first; }

void ProbeTap::layer(const TapLayer& shown) {
  const std::int64_t n = shown.q.extent(0), dim = card_.head_dim, group = card_.group(), l = shown.layer;
  const std::int64_t window = card_.layer[static_cast<std::size_t>(l)].window, lead = pass_.first + pass_.lead;
  std::vector<float> inverse_norm(static_cast<std::size_t>(n));
  if (shown.attn_in.extent(1) == 1)
    for (std::int64_t i = 0; i < n; ++i) inverse_norm[static_cast<std::size_t>(i)] = shown.attn_in(i, 0);
  else
    kernels::l2_norms(shown.attn_in, inverse_norm);
  for (float& x : inverse_norm) x = x > 0 ? 1 / x : 0;
  const float queries = static_cast<float>(std::max<std::int64_t>(1, pass_.fed - pass_.lead));

  std::vector<SeenKeys> seen(static_cast<std::size_t>(card_.kv_heads));  // cache reads may share what they return
  for (std::int64_t g = 0; g < card_.kv_heads; ++g)
    seen[static_cast<std::size_t>(g)] = keys_of(cache_.read(l, g), pass_);
  parallel_for(card_.query_heads, [&](std::int64_t h) {
    const SeenKeys& keys_seen = seen[static_cast<std::size_t>(h / group)];
    const auto count = static_cast<std::int64_t>(keys_seen.position.size());
    float* part_max = column(l, h, 0);
    float* part_max_norm = column(l, h, 1);
    float* row_max = column(l, h, 2);
    float* row_max_norm = column(l, h, 3);
    float* row_mean = column(l, h, 4);
    Rows q(std::min(block_rows, n), dim), logits;
    for (std::int64_t at = 0; at < n; at += block_rows) {
      const std::int64_t rows = std::min(block_rows, n - at);
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t d = 0; d < dim; ++d) q(i, d) = shown.q(at + i, h, d);
      logits.noalias() = card_.scale * (q.topRows(rows) * keys_seen.k.transpose());
      for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t position = fed_first_ + at + i;
        float* row = logits.data() + i * count;
        const auto last = std::upper_bound(keys_seen.position.begin(), keys_seen.position.end(), position);
        const std::int64_t end = last - keys_seen.position.begin();
        const std::int64_t from =
            window > 0
                ? std::lower_bound(keys_seen.position.begin(), last, position - window + 1) - keys_seen.position.begin()
                : 0;
        if (from >= end) continue;
        if (card_.softcap > 0)
          for (std::int64_t j = from; j < end; ++j) row[j] = card_.softcap * std::tanh(row[j] / card_.softcap);
        const float inverse = inverse_norm[static_cast<std::size_t>(at + i)];
        const std::int64_t begin = std::max(from, keys_seen.first), stop = std::min(end, keys_seen.last);
        if (position >= lead && row_max) {
          const float lse = shown.lse(at + i, h);
          for (std::int64_t j = begin; j < stop; ++j) {
            const float p = std::exp(row[j] - lse);
            const std::int64_t to = keys_seen.position[static_cast<std::size_t>(j)] - pass_.begin;
            row_max[to] = std::max(row_max[to], p);
            row_mean[to] += p / queries;
            if (row_max_norm) row_max_norm[to] = std::max(row_max_norm[to], p * inverse);
          }
        }
        if (!part_max) continue;
        const float top = *std::max_element(row + from, row + end);
        float sum = 0;
        for (std::int64_t j = from; j < end; ++j) sum += row[j] = std::exp(row[j] - top);
        for (std::int64_t j = begin; j < stop; ++j) {
          const float p = row[j] / sum;
          const std::int64_t to = keys_seen.position[static_cast<std::size_t>(j)] - pass_.begin;
          part_max[to] = std::max(part_max[to], p);
          if (part_max_norm) part_max_norm[to] = std::max(part_max_norm[to], p * inverse);
        }
      }
    }
  });
}

ProbeColumns ProbeTap::columns(std::int64_t layer, std::int64_t query_head) const {
  ProbeColumns out{.number = pass_.number, .begin = pass_.begin, .end = pass_.end, .columns = {}};
  for (int s = 0; s < probe_statistics; ++s)
    if (const float* from = column(layer, query_head, s))
      out.columns[static_cast<std::size_t>(s)].assign(from, from + keys());
  return out;
}

Array<float, 2> ProbeTap::rows(std::int64_t layer) const {
  Array<float, 2> out({measured_ * keys(), card_.query_heads});
  for (std::int64_t h = 0; h < card_.query_heads; ++h) {
    const std::vector<float>& from = values_[static_cast<std::size_t>(layer * card_.query_heads + h)];
    for (std::int64_t i = 0; i < out.extent(0); ++i) out(i, h) = from[static_cast<std::size_t>(i)];
  }
  return out;
}

void run_probe(const ProbePass& pass, sim::KvCache& cache, Tap& tap, std::int64_t chunk,
               const std::function<void(const sim::Feed&)>& forward) {
  const std::int64_t piece = (std::max<std::int64_t>(chunk, 1) + 63) / 64 * 64;
  const auto all = static_cast<std::int64_t>(pass.ids.size());
  for (std::int64_t at = 0; at < all; at += piece) {
    const std::int64_t n = std::min(piece, all - at);
    forward({.sequence = 0,
             .first = pass.first + at,
             .ids = std::span(pass.ids).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(n)),
             .cache = &cache,
             .tap = &tap,
             .decode = false,
             .logits_of = {}});
  }
}

void check_probes(const ModelCard& card, const std::vector<ProbePass>& passes) {
  for (const ProbePass& pass : passes)
    if (card.max_positions > 0 && pass.first + pass.fed > card.max_positions)
      throw Error(Category::usage,
                  {.doing = "planning a pass over the context once more",
                   .on = fmt::format("{} {}", probe_kind_name(pass.kind), pass.number),
                   .found = fmt::format("{} tokens of context and {} of the pass", pass.first, pass.fed),
                   .expected = fmt::format("at most the model's {} positions", card.max_positions),
                   .next = pass.kind == ProbeKind::repeat ? "smaller parts (repeat=512), or a shorter context"
                                                          : "a shorter context"});
}

}  // namespace kvgrind::replay
