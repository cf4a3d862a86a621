// The flags that name suites, shared by eval and validate.
#pragma once
#include <string>
#include <vector>

#include "replay/program/options.h"
#include "replay/suite/suite.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::program {

struct SuiteFlags {
  std::vector<std::string> suites;
  std::int64_t prompts = 50, length = 1024, questions = 3, seed = 1;
  std::string form = "trained", haystack;
};

void add_suite_flags(Options& options, SuiteFlags& flags);

// Built-in names are generated with the model's tokenizer; anything else is a file. Error(usage | missing | damaged).
std::vector<replay::Suite> suites_of(const SuiteFlags& flags, const traces::ModelFolder& model,
                                     const std::string& folder);

}  // namespace kvgrind::program
