#include "replay/open_loop/protocol.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/policy_line.h"

namespace kvgrind::replay {
namespace {

constexpr std::int64_t retrospective_queries = 64;

void add_range(std::vector<std::int64_t>& out, std::int64_t begin, std::int64_t end) {
  for (std::int64_t p = begin; p < end; ++p) out.push_back(p);
}

}  // namespace

std::string_view protocol_name(Protocol protocol) { return protocol == Protocol::blind ? "blind" : "aware"; }

Protocol protocol_from_name(std::string_view name) {
  if (name == "blind") return Protocol::blind;
  if (name == "aware") return Protocol::aware;
  const std::string near = nearest_name(name, {"blind", "aware"});
  throw Error(Category::usage, {.doing = "reading the protocol",
                                .found = fmt::format("`{}`", name),
                                .expected = "blind (compresses before the question) or aware (after it)",
                                .next = near.empty() ? "" : fmt::format("did you mean `{}`?", near)});
}

std::int64_t compression_moment(const std::vector<Segment>& segments, std::int64_t tokens, Protocol protocol) {
  std::int64_t blind = -1;
  for (const Segment& segment : segments)
    if (segment.role == Role::context) blind = std::max(blind, segment.end);
  for (const Role role : {Role::question, Role::answer, Role::generated}) {
    if (blind >= 0) break;
    for (const Segment& segment : segments)
      if (segment.role == role && segment.begin > 0 && (blind < 0 || segment.begin < blind)) blind = segment.begin;
  }
  if (blind < 0) blind = tokens;
  blind = std::min(blind, tokens);
  if (protocol == Protocol::blind) return blind;
  std::int64_t aware = -1;
  for (const Segment& segment : segments)
    if (segment.role == Role::question && segment.begin >= blind && (aware < 0 || segment.end < aware))
      aware = segment.end;
  return aware < 0 ? blind : std::min(aware, tokens);
}

QuerySets query_sets(const std::vector<Segment>& segments, std::int64_t tokens) {
  QuerySets out;
  const std::int64_t moment = compression_moment(segments, tokens, Protocol::blind);
  if (moment >= tokens) {
    out.retrospective = true;
    add_range(out.all, std::max<std::int64_t>(0, tokens - retrospective_queries), tokens);
    return out;
  }
  add_range(out.all, moment, tokens);
  for (const Segment& segment : segments) {
    if (segment.role == Role::question)
      add_range(out.question, std::max(segment.begin, moment), std::min(segment.end, tokens));
    if (segment.role == Role::answer || segment.role == Role::generated) {
      // The query at position p predicts token p + 1; the last context token may ask for the first answer token.
      const std::int64_t begin = std::max<std::int64_t>({segment.begin - 1, moment - 1, 0});
      add_range(out.answer, begin, std::min(segment.end - 1, tokens));
    }
  }
  for (auto* set : {&out.all, &out.question, &out.answer}) {
    std::sort(set->begin(), set->end());
    set->erase(std::unique(set->begin(), set->end()), set->end());
  }
  return out;
}

}  // namespace kvgrind::replay
