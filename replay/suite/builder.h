// Shared by the built-in suites: seeded choices and contexts put together from running text and inserted pieces.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "core/rng.h"
#include "replay/suite/suite.h"

namespace kvgrind::replay {

// A stream of seeded choices for one prompt; the same (seed, suite, prompt) gives the same prompt anywhere.
class Chooser {
 public:
  Chooser(std::uint64_t seed, std::string name, std::int64_t prompt)
      : name_(std::move(name)), key_{.seed = seed, .sequence = prompt, .name = {}} {}
  std::int64_t below(std::int64_t n);                                      // uniform in [0, n)
  std::string digits(int n);                                               // n decimal digits
  std::vector<std::int64_t> distinct(std::int64_t n, std::int64_t count);  // ascending, count ≤ n

 private:
  std::string name_;
  RandomKey key_;
  std::int64_t draws_ = 0;
};

// Adjective and noun, all pairs of one call distinct: "amber falcon" joined by `joint`.
std::vector<std::string> word_pairs(Chooser& chooser, std::int64_t count, std::string_view joint);
std::vector<std::string> nouns(Chooser& chooser, std::int64_t count);  // distinct

// A window of the haystack of about `tokens` tokens that starts at a seeded word; wraps round at the end.
std::vector<std::int32_t> haystack_ids(Chooser& chooser, const traces::Tokenizer& tokenizer, std::string_view haystack,
                                       std::int64_t tokens);

struct Insert {
  std::vector<std::int32_t> ids;
  std::string kind, label;
};
// bos (if the tokenizer adds one), then running text with the inserts at seeded places, exactly `length` tokens.
// Error(usage) when the inserts take more than 80 % of the length. Spans of the inserts in order of `inserts`.
struct Mixed {
  std::vector<std::int32_t> ids;
  std::vector<Span> spans;
};
Mixed mix(Chooser& chooser, const traces::Tokenizer& tokenizer, std::string_view haystack, std::int64_t length,
          const std::vector<Insert>& inserts, bool keep_order);

std::vector<std::int32_t> plain_ids(const traces::Tokenizer& tokenizer, std::string_view text);  // no special tokens

// One task each.
SuitePrompt needle_prompt(const SuiteOptions&, std::int64_t prompt, const traces::Tokenizer&, std::string_view haystack,
                          bool many);
SuitePrompt records_prompt(const SuiteOptions&, std::int64_t prompt, const traces::Tokenizer&,
                           std::string_view haystack);
SuitePrompt chains_prompt(const SuiteOptions&, std::int64_t prompt, const traces::Tokenizer&,
                          std::string_view haystack);
SuitePrompt copy_prompt(const SuiteOptions&, std::int64_t prompt, const traces::Tokenizer&, std::string_view haystack);
SuitePrompt prose_prompt(const SuiteOptions&, std::int64_t prompt, const traces::Tokenizer&, std::string_view haystack);

}  // namespace kvgrind::replay
