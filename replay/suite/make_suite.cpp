#include <fmt/format.h>

#include "core/error.h"
#include "core/policy_line.h"
#include "replay/suite/builder.h"

namespace kvgrind::replay {

std::vector<std::string> suite_names() { return {"needle", "multi_needle", "records", "chains", "copy", "prose"}; }

Suite make_suite(std::string_view name, const SuiteOptions& options, const traces::Tokenizer& tokenizer,
                 std::string_view haystack) {
  Suite suite;
  suite.name = fmt::format("{}@{}", name, options.length);
  for (std::int64_t p = 0; p < options.prompts; ++p) {
    if (name == "needle" || name == "multi_needle")
      suite.prompts.push_back(needle_prompt(options, p, tokenizer, haystack, name == "multi_needle"));
    else if (name == "records")
      suite.prompts.push_back(records_prompt(options, p, tokenizer, haystack));
    else if (name == "chains")
      suite.prompts.push_back(chains_prompt(options, p, tokenizer, haystack));
    else if (name == "copy")
      suite.prompts.push_back(copy_prompt(options, p, tokenizer, haystack));
    else if (name == "prose")
      suite.prompts.push_back(prose_prompt(options, p, tokenizer, haystack));
    else
      throw Error(Category::usage,
                  {.doing = "making a suite",
                   .found = fmt::format("no suite `{}`", name),
                   .expected = fmt::format("one of {}", fmt::join(suite_names(), ", ")),
                   .next = nearest_name(name, suite_names()).empty()
                               ? ""
                               : fmt::format("did you mean `{}`?", nearest_name(name, suite_names()))});
  }
  return suite;
}

}  // namespace kvgrind::replay
