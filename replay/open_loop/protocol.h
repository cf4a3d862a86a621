// When a policy compresses, and which recorded queries are asked afterwards.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/sequence.h"

namespace kvgrind::replay {

enum class Protocol : std::uint8_t { blind, aware };
std::string_view protocol_name(Protocol protocol);
Protocol protocol_from_name(std::string_view name);  // Error(usage) with the nearest name

// The compression moment in tokens: [0, moment) have been seen.
//   blind: the end of the last context segment; aware: the end of the first question after it (blind's without one).
//   Without a context segment: the begin of the first question, else of the first generated segment, else T (the end
//   of prefill).
std::int64_t compression_moment(const std::vector<Segment>& segments, std::int64_t tokens, Protocol protocol);

// The query sets that metrics name. Positions ascend. They do not depend on the protocol, so that its figures compare.
struct QuerySets {
  std::vector<std::int64_t> all;       // every position from the blind moment on
  std::vector<std::int64_t> question;  // of question segments in it
  std::vector<std::int64_t> answer;  // positions a−1 … b−2 of each answer (or generated) segment [a, b): their logits
                                     // predict an answer token
  bool retrospective = false;  // nothing comes after the moment: the last 64 queries before it are asked again
};
QuerySets query_sets(const std::vector<Segment>& segments, std::int64_t tokens);

}  // namespace kvgrind::replay
