#include "replay/open_loop/sequence_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/linear/linear.h"
#include "replay/open_loop/attend.h"

namespace kvgrind::replay {
namespace {

// Keys of the `count` largest values of row[0, n), most first; ties by position.
std::vector<std::int32_t> largest(View<const float, 1> row, std::int64_t n, std::int64_t count) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  count = std::min(count, n);
  const auto before = [&](std::int32_t a, std::int32_t b) { return row(a) != row(b) ? row(a) > row(b) : a < b; };
  std::partial_sort(order.begin(), order.begin() + count, order.end(), before);
  order.resize(static_cast<std::size_t>(count));
  return order;
}

}  // namespace

SequenceData::SequenceData(std::shared_ptr<const RecordedRun> run, std::int64_t sequence, std::int64_t reference_bytes,
                           const CancelToken& cancel)
    : run_(std::move(run)), info_(find_sequence(*run_, sequence)), source_(run_, sequence) {
  const ModelCard& c = card();
  sets_ = query_sets(info_.segments, info_.tokens);
  context_end_ = compression_moment(info_.segments, info_.tokens, Protocol::blind);
  find_measured();
  const auto m = static_cast<std::int64_t>(measured_.size());
  keep_probabilities_ = c.layers * c.query_heads * m * info_.tokens * 4 <= reference_bytes;
  const auto layers = static_cast<std::size_t>(c.layers), heads = static_cast<std::size_t>(c.layers * c.query_heads);
  keys_.resize(layers);
  values_.resize(layers);
  queries_.resize(layers);
  outputs_.resize(layers);
  if (keep_probabilities_) probabilities_.resize(heads);
  top_.resize(heads * measured_.size());
  tallies_.resize(heads * measured_.size());
  parallel_for(c.layers, [&](std::int64_t layer) {
    cancel.throw_if_cancelled();
    load_layer(layer);
  });
  for (std::size_t l = 0; l < layers; ++l) outputs_[l] = Array<float, 2>({m, c.query_heads * c.head_dim});
  parallel_for(c.layers * c.query_heads, [&, this](std::int64_t i) {
    cancel.throw_if_cancelled();
    const std::int64_t layer = i / card().query_heads, head = i % card().query_heads, dim = card().head_dim;
    View<float, 2> joined = outputs_[static_cast<std::size_t>(layer)].view();
    const View<float, 2> out(joined.data() + head * dim, {m, dim}, {card().query_heads * dim, 1});
    auto p = std::make_shared<Array<float, 2>>(attend(layer, head, 0, m, out));
    for (std::int64_t row = 0; row < m; ++row) {
      const auto place = static_cast<std::size_t>(i * m + row);
      const std::int64_t query = measured_[static_cast<std::size_t>(row)];
      top_[place] = largest(View<const float, 2>(*p)[row], query + 1, overlap_keys);
      tallies_[place] = tally_reference({&(*p)(row, 0), static_cast<std::size_t>(info_.tokens)}, query, context_keys());
    }
    if (keep_probabilities_) probabilities_[static_cast<std::size_t>(i)] = std::move(p);
  });
  project_reference();
  if (const std::vector<float> nll = run_->nll(info_.id); !nll.empty())
    for (const std::int64_t position : measured_)
      nll_.push_back(static_cast<double>(nll[static_cast<std::size_t>(position)]));
}

void SequenceData::find_measured() {
  std::vector<std::int64_t> wanted;
  for (const auto* set : {&sets_.all, &sets_.question, &sets_.answer})
    wanted.insert(wanted.end(), set->begin(), set->end());
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  const auto& recorded = source_.recorded_positions();
  std::set_intersection(wanted.begin(), wanted.end(), recorded.begin(), recorded.end(), std::back_inserter(measured_));
  if (measured_.empty())
    throw Error(Category::usage,
                {.doing = "replaying",
                 .on = fmt::format("sequence {}", info_.id),
                 .found = fmt::format("no recorded query (signal queries) after token {}", context_end_),
                 .expected = "queries to measure",
                 .next = "record with --queries all or window"});
  for (std::size_t row = 0; row < measured_.size(); ++row) {
    const std::int64_t p = measured_[row];
    if (!query_runs_.empty() && query_runs_.back().first + query_runs_.back().n == p)
      ++query_runs_.back().n;
    else
      query_runs_.push_back({static_cast<std::int64_t>(row), p, 1});
  }
}

void SequenceData::load_layer(std::int64_t layer) {
  const ModelCard& c = card();
  const auto m = static_cast<std::int64_t>(measured_.size());
  Array<float, 3> k({info_.tokens, c.kv_heads, c.head_dim}), v(k.extents()), q({m, c.query_heads, c.head_dim});
  const auto scatter = [&](const Array<float, 2>& from, std::int64_t head, Array<float, 3>& to) {
    if (from.extent(0) != info_.tokens || from.extent(1) != c.head_dim)
      throw Error(Category::damaged, {.doing = "replaying",
                                      .on = fmt::format("sequence {}, layer {}", info_.id, layer),
                                      .found = fmt::format("[{}, {}]", from.extent(0), from.extent(1)),
                                      .expected = fmt::format("[{}, {}] (token, dim)", info_.tokens, c.head_dim)});
    for (std::int64_t t = 0; t < info_.tokens; ++t)
      std::copy_n(from.data() + t * c.head_dim, c.head_dim, &to(t, head, 0));
  };
  for (std::int64_t h = 0; h < c.kv_heads; ++h) {
    scatter(run_->keys(info_.id, layer, h), h, k);
    scatter(run_->values(info_.id, layer, h), h, v);
  }
  for (std::int64_t h = 0; h < c.query_heads; ++h)
    for (const QueryRun& piece : query_runs_) {
      const Array<float, 2> rows = source_.queries(layer, h, piece.first, piece.n);
      for (std::int64_t i = 0; i < piece.n; ++i)
        std::copy_n(rows.data() + i * c.head_dim, c.head_dim, &q(piece.row + i, h, 0));
    }
  keys_[static_cast<std::size_t>(layer)] = std::move(k);
  values_[static_cast<std::size_t>(layer)] = std::move(v);
  queries_[static_cast<std::size_t>(layer)] = std::move(q);
}

Array<float, 2> SequenceData::attend(std::int64_t layer, std::int64_t query_head, std::int64_t row, std::int64_t n,
                                     View<float, 2> out) const {
  const ModelCard& c = card();
  Array<float, 2> p({n, info_.tokens});
  std::vector<std::int64_t> k_position(static_cast<std::size_t>(info_.tokens));
  std::iota(k_position.begin(), k_position.end(), 0);
  const std::int64_t dim = c.head_dim, kv_head = query_head / c.group();
  const View<const float, 2> k(keys(layer).data() + kv_head * dim, {info_.tokens, dim}, {c.kv_heads * dim, 1});
  const View<const float, 2> v(values(layer).data() + kv_head * dim, {info_.tokens, dim}, {c.kv_heads * dim, 1});
  for (const QueryRun& piece : query_runs_) {
    const std::int64_t begin = std::max(row, piece.row), end = std::min(row + n, piece.row + piece.n);
    if (begin >= end) continue;
    const float* q = queries(layer).data() + (begin * c.query_heads + query_head) * dim;
    replay::attend({.card = c,
                    .layer = layer,
                    .query_head = query_head,
                    .q = {q, {end - begin, dim}, {c.query_heads * dim, 1}},
                    .position = std::span(measured_).subspan(static_cast<std::size_t>(begin),
                                                             static_cast<std::size_t>(end - begin)),
                    .slots = {k, v, k_position, nullptr}},
                   p.view().slice(begin - row, end - begin), out.slice(begin - row, end - begin));
  }
  return p;
}

ReferenceRows SequenceData::reference_rows(std::int64_t layer, std::int64_t query_head, std::int64_t row,
                                           std::int64_t n) const {
  if (keep_probabilities_) return {probabilities_[at(layer, query_head)], 0};
  Array<float, 2> out({n, card().head_dim});
  return {std::make_shared<const Array<float, 2>>(attend(layer, query_head, row, n, out.view())), row};
}

const std::vector<std::int32_t>& SequenceData::reference_top(std::int64_t layer, std::int64_t query_head,
                                                             std::int64_t row) const {
  return top_[at(layer, query_head) * measured_.size() + static_cast<std::size_t>(row)];
}

void SequenceData::project_reference() {
  const ModelCard& c = card();
  const auto m = static_cast<std::int64_t>(measured_.size());
  const bool projection = source_.has(sim::Signal::output_projection), norms = source_.has(sim::Signal::hidden_norm);
  if (projection) projected_norm_ = Array<double, 2>({c.layers, m});
  if (norms) residual_norm_ = Array<double, 2>({c.layers, m});
  for (std::int64_t l = 0; l < c.layers; ++l) {
    if (projection) {
      const kernels::PackedLinear& w = *run_->packed_projection(l);
      Array<float, 2> y({m, w.outputs()});
      kernels::linear(w, reference_output(l), y.view());
      for (std::int64_t row = 0; row < m; ++row) {
        double sum = 0;
        for (std::int64_t d = 0; d < y.extent(1); ++d)
          sum += static_cast<double>(y(row, d)) * static_cast<double>(y(row, d));
        projected_norm_(l, row) = std::sqrt(sum);
      }
    }
    for (std::int64_t row = 0; norms && row < m; ++row)
      residual_norm_(l, row) = static_cast<double>(
          source_.hidden_norm(l)[static_cast<std::size_t>(measured_[static_cast<std::size_t>(row)])]);
  }
}

std::int64_t SequenceData::bytes() const { return estimated_bytes(*run_, info_.id); }

std::int64_t SequenceData::estimated_bytes(const RecordedRun& run, std::int64_t sequence) {
  const traces::SequenceInfo& info = find_sequence(run, sequence);
  const ModelCard& c = run.card();
  const QuerySets sets = query_sets(info.segments, info.tokens);
  const auto m = static_cast<std::int64_t>(sets.all.size()) + 1;
  const std::int64_t kv = 2 * info.tokens * c.layers * c.kv_heads * c.head_dim * 4;
  const std::int64_t rows = 2 * m * c.layers * c.query_heads * c.head_dim * 4;
  const std::int64_t probabilities = std::min(c.layers * c.query_heads * m * info.tokens * 4, reference_limit_bytes);
  const std::int64_t signals =
      std::min<std::int64_t>(info.tokens * c.layers * c.query_heads * c.head_dim * 4, 512ll << 20);
  const std::int64_t scores =
      std::min(8 * info.tokens * c.layers * c.query_heads * 4, sim::ScoreStore::usual_limit_bytes);
  return kv + rows + probabilities + signals + scores;
}

}  // namespace kvgrind::replay
