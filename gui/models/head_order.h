// In which order heads are shown, and what a policy keeps of a head's attention.
#pragma once
#include <cstdint>
#include <vector>

#include "gui/models/view_input.h"
#include "replay/look/facts.h"

namespace kvgrind::gui {

// Indices of the heads: by layer as they are; entropy and sink mass most first; recall least first. Ties and NaN keep
// the order of layers, NaN last.
std::vector<std::size_t> ordered_heads(const std::vector<replay::HeadFacts>& facts, const std::vector<double>& recall,
                                       HeadOrder order);

// Share of attention weight that the first shown policy's cache still holds at the end, mean over the latest `most`
// recorded queries. NaN: no policy, or no query.
double head_recall(const ViewInput& input, std::int64_t layer, std::int64_t query_head, std::int64_t most);

}  // namespace kvgrind::gui
