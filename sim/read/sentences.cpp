// SentenceKV: while a sentence is being written, the sentences most like its queries so far are read.
//   sentences begin where spans of kind "sentence" do; mean key of the kept slots of each; q̄ = mean of the queries of
//   the unfinished sentence, mean over the group's query heads; by q̄ · mean key whole sentences in turn until C − start
//   − recent slots, the last one cut; with them the first `start` and last `recent` slots. C = what the amount gave at
//   the compression moment, and the tokens since. A sentence of one query so far reads everything (as published)
//   source: arXiv 2504.00970; zzbright1998/SentenceKV models/sentencekv/custom_llama_sentencekv.py
#include "kernels/rank/rank.h"
#include "sim/engine/base_amount.h"
#include "sim/engine/read_support.h"

namespace kvgrind::sim::reads {
namespace {

std::vector<double> mean_of_queries(const ReadContext& context, std::int64_t first, std::int64_t n) {
  const std::int64_t dim = context.facts.card->head_dim;
  std::vector<double> out(static_cast<std::size_t>(dim), 0.0);
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const Array<float, 2> q = queries_of(context, context.first_query_head() + h, first, n);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t d = 0; d < dim; ++d) out[static_cast<std::size_t>(d)] += static_cast<double>(q(i, d));
  }
  return out;
}

void read(const ReadContext& context, std::vector<std::vector<std::int32_t>>& slots_of_query) {
  const GroupSlots& slots = context.cache.group(context.layer, context.group);
  const std::int64_t budget =
      base_amount(context.amount, context.compressed_at, *context.facts.card, context.cache.heads()).tokens;
  std::vector<std::int64_t> starts;
  for (const Span& span : context.signals.spans())
    if (span.kind == "sentence") starts.push_back(span.begin);
  std::sort(starts.begin(), starts.end());
  for (std::int64_t i = 0; i < context.q.extent(0); ++i) {
    const std::int64_t t = context.first + i;
    const auto [low, high] = seen_slots(context, t);
    auto& chosen = slots_of_query[static_cast<std::size_t>(i)];
    const auto after = std::upper_bound(starts.begin(), starts.end(), t);
    const std::int64_t open = std::max(after == starts.begin() ? 0 : *(after - 1), context.compressed_at);
    const std::int64_t front = std::min(low + context.params.integer("start"), high);
    const std::int64_t back = std::max(front, high - context.params.integer("recent"));
    const std::int64_t later = std::max<std::int64_t>(0, t + 1 - context.compressed_at);
    std::int64_t room = budget + later - (front - low) - (high - back);
    if (t - open < 1 || room >= back - front) {
      for (std::int64_t j = low; j < high; ++j) chosen.push_back(static_cast<std::int32_t>(j));
      continue;
    }
    const std::vector<double> q = mean_of_queries(context, open, t + 1 - open);
    std::vector<std::vector<std::int32_t>> sentence;
    std::vector<float> sim;
    for (std::int64_t j = front; j < back;) {
      const auto next = std::upper_bound(starts.begin(), starts.end(), slots.position[static_cast<std::size_t>(j)]);
      std::vector<double> key(q.size(), 0.0);
      std::vector<std::int32_t>& own = sentence.emplace_back();
      for (; j < back && (next == starts.end() || slots.position[static_cast<std::size_t>(j)] < *next); ++j) {
        own.push_back(static_cast<std::int32_t>(j));
        for (std::size_t d = 0; d < key.size(); ++d)
          key[d] += static_cast<double>(slots.k[static_cast<std::size_t>(j) * key.size() + d]);
      }
      double dot = 0;
      for (std::size_t d = 0; d < key.size(); ++d) dot += q[d] * key[d] / static_cast<double>(own.size());
      sim.push_back(static_cast<float>(dot));
    }
    for (std::int64_t j = low; j < front; ++j) chosen.push_back(static_cast<std::int32_t>(j));
    for (const std::int32_t s : kernels::rank_order(sim))
      for (const std::int32_t j : sentence[static_cast<std::size_t>(s)])
        if (room-- > 0) chosen.push_back(j);
    for (std::int64_t j = back; j < high; ++j) chosen.push_back(static_cast<std::int32_t>(j));
    std::sort(chosen.begin(), chosen.end());
  }
}

}  // namespace

extern const ReadRow sentences;
const ReadRow sentences = {
    .name = "sentences",
    .source = "arXiv 2504.00970; zzbright1998/SentenceKV",
    .help = "the sentences most like the queries of the one being written",
    .params = {{"start", ParamType::integer, "32", "first slots, always read", 0, 1e9},
               {"recent", ParamType::integer, "32", "last slots, always read", 1, 1e9}},
    .needs = {Signal::queries, Signal::spans},
    .reads_all = false,
    .read = read,
};

}  // namespace kvgrind::sim::reads
