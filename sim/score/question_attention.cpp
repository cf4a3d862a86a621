// Finch: attention of the question's tokens, each row times the number of keys it could see.
//   in   q of the question (the segment of that role which ends at the moment; without one, the last `window` tokens)
//   out  s [slots before the question] = mean over its rows of attention · exposure, mean over the group's query heads;
//        the question's own tokens = +inf. exposure of row i: S − w + i (kvpress), or S − w + i + 1 keys (visible)
//   source: "FINCH: Prompt-guided Key-Value Cache Compression" (TACL 2024); NVIDIA/kvpress finch_press.py
#include "sim/engine/reduce.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens;
  std::int64_t window = std::min(context.params.integer("window"), tokens);
  if (context.signals.has(Signal::segments))
    for (const Segment& segment : context.signals.segments())
      if (segment.role == Role::question && segment.end == tokens && segment.begin < tokens)
        window = tokens - segment.begin;
  const std::size_t past = slots_below(slots, tokens - window);
  std::fill(out.s.begin() + static_cast<std::ptrdiff_t>(past), out.s.end(), always_kept);
  const std::int64_t extra = context.params.word("exposure") == "visible" ? 1 : 0;
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const Array<float, 2> p = context.attention(context.first_query_head() + h, tokens - window, window);
    std::vector<double>& column = head.emplace_back(past, 0.0);
    for (std::int64_t i = 0; i < window; ++i)
      for (std::size_t j = 0; j < past; ++j)
        column[j] += static_cast<double>(p(i, static_cast<std::int64_t>(j))) *
                     static_cast<double>(tokens - window + i + extra) / static_cast<double>(window);
  }
  const std::vector<float> joined = reduce_heads(head, context.params.word("reduce"));
  std::copy(joined.begin(), joined.end(), out.s.begin());
}

}  // namespace

extern const ScoreRow question_attention;
const ScoreRow question_attention = {
    .name = "question_attention",
    .source = "TACL 2024 (Finch); NVIDIA/kvpress finch_press.py",
    .help = "attention of the question's tokens, times what they could see",
    .params = {{"window", ParamType::integer, "32", "last tokens that stand for a question where none is marked", 1,
                65536},
               {"exposure",
                ParamType::word,
                "kvpress",
                "keys a row could see: kvpress counts one fewer",
                -1e300,
                1e300,
                {"kvpress", "visible"}},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
