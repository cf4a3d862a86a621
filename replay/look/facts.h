// Small figures that views show of a recording: rows of attention, what kind of head it is, mass on a span, channels.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/model_card.h"
#include "core/progress.h"
#include "core/sequence.h"
#include "replay/look/head_data.h"
#include "replay/look/tile.h"

namespace kvgrind::replay {

// Attention of the recorded query next to `query` (the latest at or before it, else the first after).
struct AttentionRow {
  std::int64_t query = -1;    // position; −1: no query of this head was recorded
  std::vector<float> weight;  // [T] exp(cap(scale · q·k) − LSE); 0 where not visible
};
AttentionRow attention_row(const ModelCard& card, const HeadData& head, std::int64_t layer, std::int64_t query);

// From up to 48 recorded queries spread over the second half of the sequence.
struct HeadFacts {
  std::int64_t layer = 0, query_head = 0;
  double sink_mass = 0;     // on positions 0 … 3
  double local_mass = 0;    // on the last 64 keys before the query
  double entropy_bits = 0;  // of the row
  double largest = 0;       // largest weight outside of sink and neighbourhood
  std::int64_t queries = 0;
  std::string kind;  // sink | local | look-up | mixed | not recorded
};
HeadFacts head_facts(const ModelCard& card, const HeadData& head, std::int64_t layer, std::int64_t query_head,
                     const CancelToken& cancel = {});

// Attention that each query gives to positions [begin, end), largest over the query heads of a layer. [L][queries]
struct SpanMass {
  std::vector<std::int64_t> query;
  Array<float, 2> mass;
};

// Per channel of K or V of every KV head of a layer: mean and largest |x|, and the root of the mean squared error of
// 4-bit min/max quantisation along the token axis (groups of 32) and along the channel axis, relative to the channel's
// root mean square.
struct ChannelFacts {
  Array<float, 2> mean_abs, largest, token_error, channel_error;  // [Hk, D]
  double outlier_share = 0;  // of channels whose mean |x| exceeds 4 × the head's median
};
ChannelFacts channel_facts(const std::vector<Array<float, 2>>& heads, const CancelToken& cancel);

}  // namespace kvgrind::replay
