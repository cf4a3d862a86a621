// After the compression moment another number than at it.
//   first  at the compression moment: all = everything that is there, amount = what the amount says
//   tokens later: 0 = what the amount says (a fraction is of the tokens seen so far), else so many
//   source: NVIDIA/kvpress decoding_press.py, compression_ratio_decoding_press.py, prefill_decoding_press.py
#include <algorithm>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const std::int64_t tokens = context.params.integer("tokens");
  const bool all = context.moment.compress && context.params.word("first") == "all";
  for (BudgetGroup& group : context.groups) {
    const bool whole = all || group.base >= group.tokens;
    const std::int64_t wanted = !context.moment.compress && tokens > 0 ? tokens : group.base;
    group.kept = whole ? group.visible : std::min(wanted, group.visible);
  }
}

}  // namespace

extern const BudgetRow later;
const BudgetRow later = {
    .name = "later",
    .source = "NVIDIA/kvpress decoding_press.py, prefill_decoding_press.py",
    .help = "after the compression moment another number than at it",
    .params = {{"first",
                ParamType::word,
                "all",
                "at the compression moment: everything, or the amount",
                -1e300,
                1e300,
                {"all", "amount"}},
               {"tokens", ParamType::integer, "0", "tokens kept later; 0 = the amount", 0, 1e9}},
    .needs = {},
    .scope = Scope::group,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
