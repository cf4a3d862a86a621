// Two recordings held against each other, head by head.
#pragma once
#include <string>
#include <vector>

#include "core/progress.h"
#include "gui/models/table.h"
#include "gui/models/view_input.h"

namespace kvgrind::gui {

struct HeadDiff {
  std::int64_t layer = 0, query_head = 0;
  replay::HeadFacts a, b;
  // Mean |A − B| over the cells both small maps hold, in decades of weight (log10, floor 1e-5); NaN where the two
  // sequences differ in length.
  double decades = 0;
};
struct TraceDiff {
  std::string a, b;  // names
  std::int64_t sequence = 0, tokens_a = 0, tokens_b = 0;
  std::int64_t first_other_token = -1;  // where the two texts part; −1: equal as far as both go
  std::int64_t layers = 0, heads = 0;
  std::vector<HeadDiff> of;               // [layers · heads]
  std::vector<std::string> other_models;  // what differs between the two models, in words
};
// A is the base. Error(usage) when layers or heads differ, or A has no such sequence: then no head has a partner.
TraceDiff trace_diff(const ViewInput& input, const CancelToken& cancel);
Table trace_diff_table(const TraceDiff& diff);

}  // namespace kvgrind::gui
