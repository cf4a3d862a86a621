// The best scores of a group, behind what is protected.
#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const Protection protection{.sink = context.params.integer("sink"),
                              .recent = context.params.integer("recent"),
                              .newest = context.params.word("newest") == "keep"};
  return take_first(priority_order(context.slots, context.columns.s, protection, context.nan_scores), context.budget);
}

}  // namespace

extern const SelectRow topk;
const SelectRow topk = {
    .name = "topk",
    .source = "kvgrind",
    .help = "the best scores, behind sinks and recents",
    .params = {{"sink", ParamType::integer, "0", "first positions, kept before all scores", 0, 1e9},
               {"recent", ParamType::integer, "0", "last slots, kept before all scores", 0, 1e9},
               {"newest",
                ParamType::word,
                "free",
                "keep: the newest token stays in any case",
                -1e300,
                1e300,
                {"keep", "free"}}},
    .columns = {},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
