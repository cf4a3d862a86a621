// Heads that find again what the answer repeats, and what eviction by their votes costs each layer (CompressKV).
//   in   sequences with spans of kind "needle"; queries after the context; W_O
//   head   Σ over queries whose next token occurs in a needle span of the attention paid to that whole span; queries of
//          answer or generated segments where there are any, else all after the context
//   layer  the best 4 heads' votes (last 8 queries, average pooling 5, one set for the layer) keep a fifth of the
//          context; e = Σ over queries after it of ‖W_O o_kept − W_O o_full‖ / (‖W_O o_full‖ + 1e-5), in shares of the
//          layers' sum, mean over the sequences
//   out  "head" [L, Hq], "layer" [L]
//   errors: no needle spans throws Error(usage)
//   source: arXiv 2508.02401; TUDa-HWAI/CompressKV semantic_retrieval_head_detection.py, pred_get_importance_score.py
#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/pool/pool.h"
#include "replay/fit/fit_data.h"
#include "replay/statistics/ranks.h"

namespace kvgrind::replay {
namespace {

constexpr std::int64_t voters = 4, window = 8, pool = 5;
constexpr double kept_share = 0.2;

using Mask = std::vector<char>;  // [queries after the context][needle spans]

// Which queries are about to repeat a token of which needle.
std::vector<Mask> repeating(const FitSequence& sequence, const std::vector<Span>& needles) {
  const std::vector<std::int32_t> tokens = sequence.run->tokens(sequence.id);
  const auto [begin, end] = sequence.future();
  const auto answers = [&](std::int64_t position) {
    for (const Segment& segment : sequence.source->segments())
      if (position >= segment.begin && position < segment.end)
        return segment.role == Role::answer || segment.role == Role::generated;
    return false;
  };
  bool any = false;
  for (std::int64_t t = begin + 1; t < end; ++t) any |= answers(t);
  std::vector<Mask> out;
  for (std::int64_t i = begin; i < end; ++i) {
    Mask& mask = out.emplace_back(needles.size(), 0);
    if (i + 1 >= static_cast<std::int64_t>(tokens.size()) || (any && !answers(i + 1))) continue;
    const std::int32_t next = tokens[static_cast<std::size_t>(i + 1)];
    for (std::size_t s = 0; s < needles.size(); ++s)
      mask[s] = std::find(tokens.begin() + needles[s].begin, tokens.begin() + needles[s].end, next) !=
                tokens.begin() + needles[s].end;
  }
  return out;
}

std::vector<Span> needles_of(const FitSequence& sequence) {
  std::vector<Span> out;
  for (const Span& span : sequence.source->spans())
    if (span.kind == "needle" && span.begin < span.end && span.end <= sequence.moment) out.push_back(span);
  return out;
}

// [L · Hq]
std::vector<double> head_scores(const std::vector<FitSequence>& sequences, const ModelCard& card) {
  std::vector<double> out(static_cast<std::size_t>(card.layers * card.query_heads));
  bool any = false;
  for (const FitSequence& sequence : sequences) {
    const std::vector<Span> needles = needles_of(sequence);
    const auto [begin, end] = sequence.future();
    if (needles.empty() || begin >= end) continue;
    any = true;
    const std::vector<Mask> masks = repeating(sequence, needles);
    const std::int64_t first = begin, n = end - begin;
    parallel_for(card.layers * card.query_heads, [&](std::int64_t at) {
      const std::int64_t l = at / card.query_heads, h = at % card.query_heads;
      const Rows p =
          causal_attention(card, l, sequence.queries(l, h, first, n), first, sequence.keys(l, h / card.group()));
      for (std::int64_t i = 0; i < n; ++i)
        for (std::size_t s = 0; s < needles.size(); ++s)
          if (masks[static_cast<std::size_t>(i)][s])
            out[static_cast<std::size_t>(at)] +=
                static_cast<double>(p.row(i).segment(needles[s].begin, needles[s].end - needles[s].begin).sum());
    });
  }
  if (!any)
    throw Error(Category::usage, {.doing = "fitting",
                                  .on = "compresskv",
                                  .found = "no sequence with needle spans and queries after its context",
                                  .expected = "recordings of needle prompts",
                                  .next = "kvgrind record --texts with spans of kind needle"});
  return out;
}

// What the votes of the layer's best heads keep of the context.
Mask voted(const FitSequence& sequence, const ModelCard& card, std::int64_t l, const double* score) {
  const std::int64_t n = sequence.moment, rows = std::min(window, n), past = n - rows;
  std::vector<std::int64_t> order(static_cast<std::size_t>(card.query_heads));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return score[a] > score[b]; });
  order.resize(static_cast<std::size_t>(std::min(voters, card.query_heads)));
  std::vector<double> vote(static_cast<std::size_t>(past));
  for (const std::int64_t h : order) {
    const Rows p = causal_attention(card, l, sequence.queries(l, h, past, rows), past,
                                    sequence.keys(l, h / card.group()).topRows(n));
    std::vector<float> sum(vote.size()), pooled(vote.size());
    for (std::size_t j = 0; j < sum.size(); ++j) sum[j] = p.col(static_cast<Eigen::Index>(j)).sum();
    kernels::pool_avg(sum, pool, pooled);
    for (std::size_t j = 0; j < vote.size(); ++j) vote[j] += static_cast<double>(pooled[j]);
  }
  std::vector<std::size_t> best(vote.size());
  std::iota(best.begin(), best.end(), std::size_t{0});
  std::stable_sort(best.begin(), best.end(), [&](std::size_t a, std::size_t b) { return vote[a] > vote[b]; });
  Mask out(static_cast<std::size_t>(n), 0);
  const auto budget = static_cast<std::int64_t>(kept_share * static_cast<double>(n));
  for (std::int64_t i = 0; i < budget - rows && i < past; ++i) out[best[static_cast<std::size_t>(i)]] = 1;
  for (std::int64_t t = past; t < n; ++t) out[static_cast<std::size_t>(t)] = 1;
  return out;
}

// Error of one layer over the queries after the context.
double layer_error(const FitSequence& sequence, const ModelCard& card, std::int64_t l, const Mask& kept) {
  const auto [begin, end] = sequence.future();
  const std::int64_t n = end - begin, dim = card.head_dim;
  Rows full(n, card.query_heads * dim), lost(n, card.query_heads * dim);
  for (std::int64_t h = 0; h < card.query_heads; ++h) {
    const Rows v = sequence.values(l, h / card.group());
    Rows p = causal_attention(card, l, sequence.queries(l, h, begin, n), begin, sequence.keys(l, h / card.group()));
    full.middleCols(h * dim, dim) = p * v;
    for (std::size_t j = 0; j < kept.size(); ++j)
      if (!kept[j]) p.col(static_cast<Eigen::Index>(j)).setZero();
    for (std::int64_t i = 0; i < n; ++i) p.row(i) /= std::max(p.row(i).sum(), 1e-30f);
    lost.middleCols(h * dim, dim) = full.middleCols(h * dim, dim) - p * v;
  }
  const Array<float, 2>& w = sequence.source->output_projection(l);
  const Eigen::Map<const Rows> projection(w.data(), w.extent(0), w.extent(1));
  const Eigen::VectorXf moved = (lost * projection.transpose()).rowwise().norm(),
                        whole = (full * projection.transpose()).rowwise().norm();
  return (moved.array() / (whole.array() + 1e-5f)).cast<double>().sum();
}

// Shares of the layers, [L].
std::vector<double> layer_shares(const std::vector<FitSequence>& sequences, const ModelCard& card,
                                 const std::vector<double>& head) {
  const auto layers = static_cast<std::size_t>(card.layers);
  std::vector<double> out(layers);
  for (const FitSequence& sequence : sequences) {
    const auto [begin, end] = sequence.future();
    if (begin >= end) continue;
    std::vector<double> error(layers);
    parallel_for(card.layers, [&](std::int64_t l) {
      error[static_cast<std::size_t>(l)] =
          layer_error(sequence, card, l, voted(sequence, card, l, head.data() + l * card.query_heads));
    });
    const double sum = std::max(std::accumulate(error.begin(), error.end(), 0.0), 1e-30);
    for (std::size_t l = 0; l < layers; ++l) out[l] += error[l] / sum / static_cast<double>(sequences.size());
  }
  return out;
}

}  // namespace

void fit_retrieval_heads(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  const std::vector<double> head = head_scores(split.fitted, card), held = head_scores(split.held_out, card);
  const std::vector<double> layer = layer_shares(split.fitted, card, head),
                            held_layer = layer_shares(split.held_out, card, head);
  out.tensors["head"] = {{card.layers, card.query_heads}, {head.begin(), head.end()}};
  out.tensors["layer"] = {{card.layers}, {layer.begin(), layer.end()}};
  double distance = 0;
  for (std::size_t l = 0; l < layer.size(); ++l) distance += std::abs(layer[l] - held_layer[l]);
  out.numbers["fitted_error"] = 0;
  out.numbers["held_out_error"] = 1 - pearson(head, held);
  out.numbers["held_out_layer_distance"] = distance;
}

}  // namespace kvgrind::replay
