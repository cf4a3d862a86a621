// What to record, from files: texts (tokenised segment by segment, bos only before the first) or token ids.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/sequence.h"
#include "traces/model_files/tokenizer.h"

namespace kvgrind::replay {

struct TextSpan {
  std::string kind;
  std::int64_t begin = 0, end = 0;  // bytes of the context
  std::string label;
};

struct TextQuestion {
  std::string question, answer;  // either may be empty
};

// One context and what is asked of it.
struct TextPrompt {
  std::string context;
  std::vector<TextSpan> spans;
  std::vector<TextQuestion> questions;
};

// One question: one sequence (context, question, answer). Several: the context, then a fork for each question.
// `decode` tokens are generated after each question and answer. Every answer gets a span of kind "answer".
std::vector<TokenSequence> sequences_of(const TextPrompt& prompt, const traces::Tokenizer& tokenizer,
                                        std::int64_t decode);
// The same for several prompts; parents are renumbered.
std::vector<TokenSequence> sequences_of(const std::vector<TextPrompt>& prompts, const traces::Tokenizer& tokenizer,
                                        std::int64_t decode);

// [{"context":…, "spans":[{"kind","begin","end","label"}] in bytes, "questions":[{"question","answer"}]}], or one such
// object. Unknown keys, wrong types and spans outside the context: Error(damaged) naming the place.
std::vector<TextPrompt> parse_text_prompts(std::string_view json_text, std::string_view what);

// {"ids":[…],"segments":[{"role","begin","end"}],"spans":[{"kind","begin","end","label"}],"parent","fork_at","decode"}
// or a list of those. Without segments, all tokens are context. Error(damaged) naming the place.
std::vector<TokenSequence> parse_token_sequences(std::string_view json_text, std::string_view what);

// A whole file, at most `max_bytes`; Error(missing | usage).
std::string read_text_file(const std::filesystem::path& path, std::int64_t max_bytes = 256ll << 20);

}  // namespace kvgrind::replay
