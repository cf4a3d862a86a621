// Variable chains: "VAR X417 = 55201." and "VAR X908 = VAR X417." hidden in running text; the question asks for the
// value at the end of a chain, so two far look-ups must both survive.
#include <fmt/format.h>

#include <set>

#include "replay/suite/builder.h"

namespace kvgrind::replay {

SuitePrompt chains_prompt(const SuiteOptions& options, std::int64_t prompt, const traces::Tokenizer& tokenizer,
                          std::string_view haystack) {
  Chooser chooser(options.seed, "chains", prompt);
  const bool trained = options.form == PromptForm::trained;
  const std::int64_t chains =
      std::max<std::int64_t>(options.questions, std::min<std::int64_t>(6, options.length / 170));
  std::set<std::string> names;
  const auto fresh = [&] {
    std::string name;
    do name = "X" + chooser.digits(3);
    while (!names.insert(name).second);
    return name;
  };
  std::vector<Insert> inserts;
  std::vector<std::string> asked, values;
  for (std::int64_t c = 0; c < chains; ++c) {
    const std::string first = fresh(), second = fresh(), value = chooser.digits(5);
    inserts.push_back({plain_ids(tokenizer, trained ? fmt::format(" VAR {} = {}.", first, value)
                                                    : fmt::format(" The value of {} is {}.", first, value)),
                       "needle", first});
    inserts.push_back(
        {plain_ids(tokenizer, trained ? fmt::format(" VAR {} = VAR {}.", second, first)
                                      : fmt::format(" The value of {} is the value of {}.", second, first)),
         "link", second});
    asked.push_back(second);
    values.push_back(value);
  }
  Mixed mixed = mix(chooser, tokenizer, haystack, options.length, inserts, true);
  SuitePrompt out{"chains", std::move(mixed.ids), mixed.spans, {}};
  for (const std::int64_t i : chooser.distinct(chains, options.questions)) {
    const auto at = static_cast<std::size_t>(i);
    out.questions.push_back(
        {plain_ids(tokenizer, trained ? fmt::format("\n\nWhat is the value of VAR {}?", asked[at])
                                      : fmt::format("\n\nQuestion: What is the value of {}?\nAnswer:", asked[at])),
         plain_ids(tokenizer, fmt::format(" {}.", values[at])), mixed.spans[2 * at]});
  }
  return out;
}

}  // namespace kvgrind::replay
