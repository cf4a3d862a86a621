// Needles: sentences with a code hidden in running text; each question asks for one of them. `many` asks for two codes
// in one answer, so that both must survive.
#include <fmt/format.h>

#include <algorithm>

#include "replay/suite/builder.h"

namespace kvgrind::replay {

SuitePrompt needle_prompt(const SuiteOptions& options, std::int64_t prompt, const traces::Tokenizer& tokenizer,
                          std::string_view haystack, bool many) {
  Chooser chooser(options.seed, many ? "multi_needle" : "needle", prompt);
  const std::int64_t needles =
      std::max<std::int64_t>(options.questions * (many ? 2 : 1), std::min<std::int64_t>(12, options.length / 85));
  const auto names = word_pairs(chooser, needles, " ");
  std::vector<std::string> codes;
  std::vector<Insert> inserts;
  for (const std::string& name : names) {
    codes.push_back(chooser.digits(6));
    inserts.push_back(
        {plain_ids(tokenizer, fmt::format(" The secret code of the {} is {}.", name, codes.back())), "needle", name});
  }
  Mixed mixed = mix(chooser, tokenizer, haystack, options.length, inserts, false);
  SuitePrompt out{many ? "multi_needle" : "needle", std::move(mixed.ids), mixed.spans, {}};
  const auto asked = chooser.distinct(needles, options.questions);
  for (const std::int64_t i : asked) {
    const auto at = static_cast<std::size_t>(i);
    SuiteQuestion question;
    question.evidence = mixed.spans[at];
    if (many) {  // the second name is asked within the same answer, teacher-forced in between
      const auto other = (at + 1) % names.size();
      question.question =
          plain_ids(tokenizer, fmt::format("\n\nQuestion: What is the secret code of the {}?\nAnswer:", names[at]));
      question.answer = plain_ids(tokenizer, fmt::format(" {}.", codes[at]));
      const auto more = plain_ids(
          tokenizer,
          fmt::format("\n\nQuestion: What is the secret code of the {}?\nAnswer: {}.", names[other], codes[other]));
      question.answer.insert(question.answer.end(), more.begin(), more.end());
    } else {
      question.question =
          plain_ids(tokenizer, fmt::format("\n\nQuestion: What is the secret code of the {}?\nAnswer:", names[at]));
      question.answer = plain_ids(tokenizer, fmt::format(" {}.", codes[at]));
    }
    out.questions.push_back(std::move(question));
  }
  return out;
}

}  // namespace kvgrind::replay
