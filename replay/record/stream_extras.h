// What a streaming recording computes on the device besides, where it is asked to. Each costs device time.
#pragma once
#include <string_view>

namespace kvgrind::replay {

struct StreamExtras {
  bool maps = false;        // pooled maps: all probabilities once more, in fp32, 64 queries at a time
  bool statistics = false;  // statistics of pre-RoPE queries: D² operations a query and head
  bool top64 = false;       // NLL and the 64 likeliest next tokens: the head's product for every row
  bool any() const { return maps || statistics || top64; }
};
// "maps,statistics,top64", or "" for none. Error(usage) names what is unknown.
StreamExtras parse_stream_extras(std::string_view names);

}  // namespace kvgrind::replay
