// Record look-up: a table of lines "falcon-417 = 55201" after some running text; each question names a key.
#include <fmt/format.h>

#include <set>

#include "replay/suite/builder.h"

namespace kvgrind::replay {

SuitePrompt records_prompt(const SuiteOptions& options, std::int64_t prompt, const traces::Tokenizer& tokenizer,
                           std::string_view haystack) {
  Chooser chooser(options.seed, "records", prompt);
  const std::vector<std::int32_t> front = tokenizer.encode("", true);
  const bool trained = options.form == PromptForm::trained;
  const auto head = plain_ids(tokenizer, trained ? "\nRecords:\n" : "\n\nThe list of records follows, one a line.\n");
  // The table takes half of the context, the running text before it the rest.
  std::vector<std::int32_t> table = head;
  std::vector<Span> spans;
  std::vector<std::string> keys, values;
  std::set<std::string> seen;
  while (static_cast<std::int64_t>(table.size()) < options.length / 2 ||
         static_cast<std::int64_t>(keys.size()) < options.questions) {
    std::string key = fmt::format("{}-{}", nouns(chooser, 1)[0], chooser.digits(3));
    if (!seen.insert(key).second) continue;
    std::string value = chooser.digits(5);
    const auto line = plain_ids(tokenizer, fmt::format("{} = {}\n", key, value));
    if (static_cast<std::int64_t>(table.size() + line.size() + front.size()) + 32 > options.length) break;
    const auto begin = static_cast<std::int64_t>(table.size());
    table.insert(table.end(), line.begin(), line.end());
    spans.push_back({"needle", begin, static_cast<std::int64_t>(table.size()), key});
    keys.push_back(std::move(key));
    values.push_back(std::move(value));
  }
  SuitePrompt out;
  out.task = "records";
  out.context = front;
  const std::int64_t text = options.length - static_cast<std::int64_t>(front.size() + table.size());
  const auto prose = haystack_ids(chooser, tokenizer, haystack, std::max<std::int64_t>(text, 0));
  out.context.insert(out.context.end(), prose.begin(), prose.end());
  const auto shift = static_cast<std::int64_t>(out.context.size());
  out.context.insert(out.context.end(), table.begin(), table.end());
  for (Span& span : spans) {
    span.begin += shift;
    span.end += shift;
  }
  out.spans = spans;
  for (const std::int64_t i : chooser.distinct(static_cast<std::int64_t>(keys.size()), options.questions)) {
    const auto at = static_cast<std::size_t>(i);
    out.questions.push_back(
        {plain_ids(tokenizer, trained
                                  ? fmt::format("\nLook up {}:", keys[at])
                                  : fmt::format("\n\nQuestion: Which value is recorded for {}?\nAnswer:", keys[at])),
         plain_ids(tokenizer, fmt::format(" {}.", values[at])), spans[at]});
  }
  return out;
}

}  // namespace kvgrind::replay
