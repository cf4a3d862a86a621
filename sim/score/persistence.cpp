// How often recent queries found a slot important: attention of at least an equal share, 1 / slots the query sees.
//   in   q of the last `history` positions; attention of the group = mean of its query heads, over the slots as they
//   are out  s [slots] = hits / queries that saw it (form=rate), or −(misses) (form=count) source: arXiv 2305.17118
//   (form=count); AnswerDotAI/cold-compress cache.py (form=rate) deviations: earlier rows are renormalised over the
//   slots of now, not over those of their time
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens;
  const std::int64_t n = std::min(context.params.integer("history"), tokens);
  const Array<float, 2> rows = mean_attention(context, tokens - n, n);
  std::vector<std::int64_t> hits(out.s.size()), seen(out.s.size());
  for (std::int64_t i = 0; i < n; ++i) {
    const auto [begin, end] = seen_by(slots, tokens - n + i, context.window());
    for (std::size_t j = begin; j < end; ++j) {
      ++seen[j];
      hits[j] += rows(i, static_cast<std::int64_t>(j)) >= 1.0f / static_cast<float>(end - begin);
    }
  }
  const bool rate = context.params.word("form") == "rate";
  for (std::size_t j = 0; j < out.s.size(); ++j)
    out.s[j] = rate ? static_cast<float>(hits[j]) / static_cast<float>(std::max<std::int64_t>(1, seen[j]))
                    : -static_cast<float>(seen[j] - hits[j]);
}

}  // namespace

extern const ScoreRow persistence;
const ScoreRow persistence = {
    .name = "persistence",
    .source = "arXiv 2305.17118; AnswerDotAI/cold-compress cache.py",
    .help = "how often recent queries gave a slot more than an equal share",
    .params = {{"history", ParamType::integer, "400", "last queries that are counted", 1, 65536},
               {"form",
                ParamType::word,
                "rate",
                "rate: hits by the queries that saw it; count: minus the misses",
                -1e300,
                1e300,
                {"rate", "count"}},
               {"reduce", ParamType::word, "mean", "none = a cache per query head", -1e300, 1e300, {"mean", "none"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
