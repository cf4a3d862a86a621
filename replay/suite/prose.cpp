// Prose: running text; the answer is its own next 64 tokens, without a question.
#include "replay/suite/builder.h"

namespace kvgrind::replay {

SuitePrompt prose_prompt(const SuiteOptions& options, std::int64_t prompt, const traces::Tokenizer& tokenizer,
                         std::string_view haystack) {
  Chooser chooser(options.seed, "prose", prompt);
  constexpr std::int64_t answer_tokens = 64;
  SuitePrompt out;
  out.task = "prose";
  out.context = tokenizer.encode("", true);
  const std::int64_t text = options.length - static_cast<std::int64_t>(out.context.size());
  const auto ids = haystack_ids(chooser, tokenizer, haystack, text + answer_tokens);
  out.context.insert(out.context.end(), ids.begin(), ids.begin() + text);
  out.questions.push_back({{}, {ids.begin() + text, ids.end()}, std::nullopt});
  return out;
}

}  // namespace kvgrind::replay
