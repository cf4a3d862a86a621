// The three published split patterns of byte-level tokenizers as hand-written scanners (no regex library here knows
// \p{L}). A pattern is recognised by its exact text; anything else is refused by the caller.
#pragma once
#include <optional>
#include <string_view>
#include <vector>

namespace kvgrind::traces {

enum class SplitPattern {
  gpt2,    // GPT-2, case-sensitive contractions
  llama3,  // runs of up to three digits
  qwen2,   // single digits
};

std::optional<SplitPattern> split_pattern_from_text(std::string_view regex);

// Appends the pieces of `text`; together they are the whole of it.
void split(SplitPattern pattern, std::string_view text, std::vector<std::string_view>& pieces);

}  // namespace kvgrind::traces
