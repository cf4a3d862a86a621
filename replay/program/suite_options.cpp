#include "replay/program/suite_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "replay/record/prompts.h"

namespace kvgrind::program {
namespace {

std::vector<std::string> split(const std::vector<std::string>& lists) {
  std::vector<std::string> out;
  for (const std::string& list : lists) {
    std::size_t begin = 0;
    while (begin <= list.size()) {
      const std::size_t end = std::min(list.find(',', begin), list.size());
      if (end > begin) out.push_back(list.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  return out;
}

}  // namespace

void add_suite_flags(Options& options, SuiteFlags& flags) {
  options.texts("--suite", flags.suites, "built-in name (comma list) or JSON file; may be repeated", Need::required);
  options.integer("--prompts", flags.prompts, "prompts of a built-in suite", 1);
  options.integer("--length", flags.length, "context tokens of a built-in suite", 64);
  options.integer("--questions", flags.questions, "questions on one context", 1);
  options.integer("--suite-seed", flags.seed, "seed of a built-in suite", 0);
  options.choice("--form", flags.form, {"trained", "plain"}, "prompt words the example models know, or plain English");
  options.text("--haystack", flags.haystack, "running text for built-in suites (default: the example's prose)");
}

std::vector<replay::Suite> suites_of(const SuiteFlags& flags, const traces::ModelFolder& model,
                                     const std::string& folder) {
  const std::vector<std::string> built_in = replay::suite_names();
  std::vector<replay::Suite> out;
  std::string haystack;
  for (const std::string& name : split(flags.suites)) {
    const bool known = std::find(built_in.begin(), built_in.end(), name) != built_in.end();
    if (!known && (name.find('/') != std::string::npos || name.ends_with(".json") || std::filesystem::exists(name))) {
      out.push_back(replay::read_suite(name, model.config.card.vocab));
      continue;
    }
    if (!model.tokenizer)
      throw Error(Category::missing, {.doing = "making suite " + name,
                                      .on = folder,
                                      .found = "no tokenizer.json",
                                      .expected = "one, to turn texts into tokens",
                                      .next = "give a suite of ids as a file"});
    if (haystack.empty())
      haystack = replay::read_text_file(
          flags.haystack.empty() ? KVGRIND_SOURCE_DIR "/traces/examples/prompts/adventures.txt" : flags.haystack);
    replay::SuiteOptions options;
    options.seed = static_cast<std::uint64_t>(flags.seed);
    options.prompts = flags.prompts;
    options.length = flags.length;
    options.questions = flags.questions;
    options.form = flags.form == "plain" ? replay::PromptForm::plain : replay::PromptForm::trained;
    out.push_back(replay::make_suite(name, options, *model.tokenizer, haystack));
  }
  return out;
}

}  // namespace kvgrind::program
