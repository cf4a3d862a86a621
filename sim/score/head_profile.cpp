// FastGen: the cheapest set of tokens that recovers a head's attention.
//   in   A: mean over the group's query heads of the last `rows` share of all queries; spans special and punctuation
//   sets special (the first `globals` tokens and spans "special") ⊂ + punctuation ⊂ + frequent (the ceil(frequent · S)
//        best column sums, by exposure or plain, among tokens not yet held in the last row) ⊂ + local (i − j <
//        round(local · S)) ⊂ full
//   out  s [slots] = 1 for the first set whose recovery = mean over rows of Σ_{j in set} A reaches `recovery` (1 =
//   full),
//        −1 for the rest; figures "recovery 0" … "recovery 3" and "set" (0 … 4)
//   source: arXiv 2310.01801; AnswerDotAI/cold-compress cache.py, cache_configs/fastgen.yaml
#include <fmt/format.h>

#include "kernels/rank/rank.h"
#include "sim/engine/reduce.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

using Set = std::vector<std::uint8_t>;

void mark(const ScoreContext& context, const char* kind, Set& set) {
  if (!context.signals.has(Signal::spans)) return;
  const GroupSlots& slots = context.slots();
  for (const Span& span : context.signals.spans())
    if (span.kind == kind)
      for (std::size_t j = slots_below(slots, span.begin); j < slots_below(slots, span.end); ++j) set[j] = 1;
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens;
  const auto n = static_cast<double>(tokens);
  const std::size_t count = out.s.size();
  const auto local = static_cast<std::int64_t>(std::floor(context.params.number("local") * n + 0.5));
  Set special(count), punctuation, frequent;
  std::fill_n(special.begin(), slots_below(slots, context.params.integer("globals")), std::uint8_t{1});
  mark(context, "special", special);
  punctuation = special;
  mark(context, "punctuation", punctuation);
  frequent = punctuation;
  std::vector<float> sum = reduce_heads(running_column_sums(context), "mean");
  for (std::size_t j = 0; j < count; ++j) {
    if (context.params.word("frequency") == "exposure") sum[j] /= static_cast<float>(tokens - slots.position[j]);
    if (punctuation[j]) sum[j] = -1.0f;
  }
  const auto heavy = static_cast<std::int64_t>(std::ceil(context.params.number("frequent") * n - 1e-9));
  for (const std::int32_t j : kernels::top_k(sum, heavy)) frequent[static_cast<std::size_t>(j)] = 1;

  const Set* const sets[3] = {&special, &punctuation, &frequent};
  double recovered[4] = {};
  const auto asked = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(std::floor(context.params.number("rows") * n + 0.5)), 1, tokens);
  constexpr std::int64_t block = 256;
  for (std::int64_t first = tokens - asked; first < tokens; first += block) {
    const std::int64_t rows = std::min(block, tokens - first);
    const Array<float, 2> a = mean_attention(context, first, rows);
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::size_t j = 0; j < count; ++j) {
        const double mass = a(i, static_cast<std::int64_t>(j)) / static_cast<double>(asked);
        for (int set = 0; set < 3; ++set) recovered[set] += (*sets[set])[j] ? mass : 0.0;
        recovered[3] += frequent[j] || first + i - slots.position[j] < local ? mass : 0.0;
      }
  }
  const double least = context.params.number("recovery");
  int chosen = 0;
  while (chosen < 4 && (least >= 1 || recovered[chosen] < least)) ++chosen;
  for (std::size_t j = 0; j < count; ++j) {
    const bool held =
        chosen == 4 || (chosen < 3 ? (*sets[chosen])[j] != 0 : frequent[j] || tokens - 1 - slots.position[j] < local);
    out.s[j] = held ? 1.0f : -1.0f;
  }
  for (int set = 0; set < 4; ++set) out.figures[fmt::format("recovery {}", set)] = recovered[set];
  out.figures["set"] = chosen;
}

}  // namespace

extern const ScoreRow head_profile;
const ScoreRow head_profile = {
    .name = "head_profile",
    .source = "arXiv 2310.01801; AnswerDotAI/cold-compress cache.py",
    .help = "the cheapest set of tokens that recovers a head's attention",
    .params = {{"recovery", ParamType::number, "0.85", "share of attention to recover; 1 keeps everything", 0, 1},
               {"frequent", ParamType::number, "0.3", "share of the tokens that are heavy hitters", 0, 1},
               {"local", ParamType::number, "0.3", "share of the tokens that is the local window", 0, 1},
               {"globals", ParamType::integer, "4", "first tokens that count as special", 0, 1e9},
               {"frequency",
                ParamType::word,
                "exposure",
                "column sums divided by the queries that saw the token, or plain",
                -1e300,
                1e300,
                {"exposure", "sum"}},
               {"rows", ParamType::number, "1", "share of the queries, the last ones, to recover for", 0, 1}},
    .needs = {Signal::queries, Signal::column_sums},
    .score = score,
    .gives = {"recovery"},
};

}  // namespace kvgrind::sim::scores
