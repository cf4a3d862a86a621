// Probes: passes over a context once more, on a copy of its cache, and the attention that its keys then receive.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace kvgrind {

enum class ProbeKind : std::uint8_t {
  repeat = 1,   // part by part: an instruction to repeat, then the part's own tokens
  reread = 2,   // the whole context again, nothing said
  episode = 3,  // an instruction and the text of one episode, read against the context alone
};
inline std::string_view probe_kind_name(ProbeKind kind) {
  return kind == ProbeKind::repeat ? "repeat" : kind == ProbeKind::reread ? "reread" : "episode";
}

// One pass: `ids` are fed at positions first, first + 1, …; attention is measured on the context's keys [begin, end).
struct ProbePass {
  ProbeKind kind = ProbeKind::repeat;
  std::int64_t number = 0;          // among the passes of its kind over a context, from 0
  std::int64_t begin = 0, end = 0;  // keys measured
  std::int64_t sinks = 0;           // first keys that share the part's softmax
  std::int64_t first = 0;           // tokens of the context
  std::int64_t lead = 0;            // ids before the repeated ones: the instruction
  std::int64_t fed = 0;             // ids in all, also where the ids themselves are not known
  std::vector<std::int32_t> ids = {};
};

// Per query head and key. Part: softmax over the sinks, keys [begin, end) and (but for episodes) the pass's own keys up
// to the query; all queries of the pass. Row: softmax over everything the query sees; queries from `lead` on.
enum class ProbeStatistic : std::uint8_t {
  part_max,
  part_max_norm,  // of part attention over ‖x‖, x the attention's input (after its norm) at the query
  row_max,
  row_max_norm,
  row_mean,
};
inline constexpr int probe_statistics = 5;
inline constexpr std::array<std::string_view, probe_statistics> probe_statistic_names = {
    "part_max", "part_max_norm", "row_max", "row_max_norm", "row_mean"};

// Bit i = statistic i is measured by passes of the kind.
inline constexpr std::uint32_t measured_statistics(ProbeKind kind) {
  return kind == ProbeKind::repeat ? 0b11111u : kind == ProbeKind::reread ? 0b10100u : 0b00001u;
}

struct ProbeColumns {  // of one pass and query head
  std::int64_t number = 0, begin = 0, end = 0;
  std::array<std::vector<float>, probe_statistics> columns;  // [end − begin] each, empty = not measured
  const std::vector<float>& of(ProbeStatistic statistic) const { return columns[static_cast<std::size_t>(statistic)]; }
  std::vector<float>& of(ProbeStatistic statistic) { return columns[static_cast<std::size_t>(statistic)]; }
};

}  // namespace kvgrind
