// Verbatim copy: a marked passage in running text, then more text; the answer is the passage's first 64 tokens.
#include <algorithm>

#include "core/error.h"
#include "replay/suite/builder.h"

namespace kvgrind::replay {

SuitePrompt copy_prompt(const SuiteOptions& options, std::int64_t prompt, const traces::Tokenizer& tokenizer,
                        std::string_view haystack) {
  Chooser chooser(options.seed, "copy", prompt);
  const bool trained = options.form == PromptForm::trained;
  constexpr std::int64_t answer_tokens = 64;
  const std::vector<std::int32_t> front = tokenizer.encode("", true);
  const auto open = plain_ids(tokenizer, trained ? "\n\n[begin passage]\n" : "\n\nHere is a passage to remember:\n");
  const auto close = plain_ids(tokenizer, trained ? "\n[end passage]\n\n" : "\nThe passage ends here.\n\n");
  const std::int64_t passage_tokens = std::clamp<std::int64_t>(options.length / 6, 96, 256);
  const std::int64_t rest =
      options.length - static_cast<std::int64_t>(front.size() + open.size() + close.size()) - passage_tokens;
  if (rest < 32)
    throw Error(Category::usage, {.doing = "making suite copy",
                                  .found = "a length of " + std::to_string(options.length),
                                  .expected = "at least 192 tokens"});
  const auto passage = haystack_ids(chooser, tokenizer, haystack, passage_tokens);
  const std::int64_t before = rest / 4 + chooser.below(std::max<std::int64_t>(1, rest / 4));
  const auto head = haystack_ids(chooser, tokenizer, haystack, before);
  const auto tail = haystack_ids(chooser, tokenizer, haystack, rest - before);
  SuitePrompt out;
  out.task = "copy";
  const auto add = [&](const std::vector<std::int32_t>& ids) {
    out.context.insert(out.context.end(), ids.begin(), ids.end());
  };
  add(front);
  add(head);
  add(open);
  const auto begin = static_cast<std::int64_t>(out.context.size());
  add(passage);
  out.spans.push_back({"needle", begin, begin + passage_tokens, "passage"});
  add(close);
  add(tail);
  SuiteQuestion question;
  question.question = plain_ids(tokenizer, trained ? "\n\nRepeat the passage.\n[begin passage]\n"
                                                   : "\n\nThe passage to remember, once more, word for word:\n");
  question.answer.assign(passage.begin(), passage.begin() + answer_tokens);
  question.evidence = Span{"needle", begin, begin + answer_tokens, "passage"};
  out.questions.push_back(std::move(question));
  return out;
}

}  // namespace kvgrind::replay
