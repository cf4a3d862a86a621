// Whether sequences fit the model, before anything runs.
#include <fmt/format.h>

#include "core/error.h"
#include "replay/record/record.h"

namespace kvgrind::replay {
namespace {

[[noreturn]] void refuse(std::int64_t sequence, std::string found, std::string expected, std::string next = {}) {
  throw Error(Category::usage, {.doing = "checking what to record",
                                .on = fmt::format("sequence {}", sequence),
                                .found = std::move(found),
                                .expected = std::move(expected),
                                .next = std::move(next)});
}

// Ranges lie in [first, end). Segments ascend without overlap and belong to this sequence's own tokens; spans may
// point anywhere in what is visible.
void check_ranges(std::int64_t index, const TokenSequence& sequence, std::int64_t end) {
  std::int64_t at = sequence.fork_at;
  for (const Segment& segment : sequence.segments) {
    if (segment.begin < at || segment.end <= segment.begin || segment.end > end)
      refuse(index, fmt::format("a {} segment [{}, {})", role_name(segment.role), segment.begin, segment.end),
             fmt::format("segments in order, not empty, within [{}, {})", at, end));
    at = segment.end;
  }
  for (const Span& span : sequence.spans)
    if (span.begin < 0 || span.end <= span.begin || span.end > end)
      refuse(index, fmt::format("a {} span [{}, {})", span.kind, span.begin, span.end),
             fmt::format("a range within [0, {})", end));
}

}  // namespace

void check_sequences(const ModelConfig& config, const std::vector<TokenSequence>& sequences) {
  if (sequences.empty()) refuse(0, "nothing to record", "at least one sequence");
  std::vector<std::int64_t> fed_end;  // end of what each sequence feeds before it decodes: forks continue that
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const TokenSequence& sequence = sequences[i];
    const std::int64_t index = static_cast<std::int64_t>(i), own = static_cast<std::int64_t>(sequence.ids.size());
    if (sequence.parent < -1 || sequence.parent >= index)
      refuse(index, fmt::format("parent {}", sequence.parent), "-1, or a sequence that stands before this one");
    if (sequence.parent < 0 && sequence.fork_at != 0)
      refuse(index, fmt::format("fork_at {} without a parent", sequence.fork_at), "0");
    if (sequence.parent >= 0) {
      const std::int64_t reach = fed_end[static_cast<std::size_t>(sequence.parent)];
      if (sequence.fork_at < 1 || sequence.fork_at > reach)
        refuse(index, fmt::format("fork_at {}", sequence.fork_at), fmt::format("1 to {}, the parent's tokens", reach));
    }
    if (own == 0) refuse(index, "no tokens", "at least one");
    if (sequence.decode < 0) refuse(index, fmt::format("decode {}", sequence.decode), "0 or more");
    for (std::size_t t = 0; t < sequence.ids.size(); ++t)
      if (sequence.ids[t] < 0 || sequence.ids[t] >= config.card.vocab)
        refuse(index, fmt::format("token id {} at {}", sequence.ids[t], t),
               fmt::format("ids of this model, 0 to {}", config.card.vocab - 1));
    const std::int64_t end = sequence.fork_at + own;
    // Dynamic RoPE is made for running past the trained positions; every other kind is not.
    bool dynamic = false;
    for (const RopeParameters& rope : config.rope) dynamic = dynamic || rope.type == "dynamic";
    const std::int64_t most = config.card.max_positions;
    if (most > 0 && !dynamic && (end > most || sequence.decode > most - end))
      refuse(index, fmt::format("{} tokens, {} of them to be generated", end + sequence.decode, sequence.decode),
             fmt::format("at most {}, the model's positions", most), "shorten the context or decode fewer tokens");
    check_ranges(index, sequence, end);
    fed_end.push_back(end);
  }
}

}  // namespace kvgrind::replay
