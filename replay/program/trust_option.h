// --trust-file, and what `kvgrind validate` measured beside the open loop's claims.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "replay/program/options.h"
#include "replay/report/report.h"
#include "traces/results/results_file.h"

namespace kvgrind::program {

void add_trust_flag(Options& options, std::string& file);

// Lines and block for figures that rank open-loop results of the model; `file` as given (empty: looked for beside the
// paths). Error(usage) when the file given is about other weights. An empty hash is not known: then only a file given
// counts.
struct TrustFound {
  std::vector<std::string> lines;
  json::value block;  // null: none
};
TrustFound trust_for(const std::string& file, const std::vector<std::filesystem::path>& beside,
                     const std::string& model_hash, std::string_view headline);

// Into a report with open-loop tables; others are left alone.
void add_trust(replay::Report& report, const std::string& file, const std::vector<std::filesystem::path>& beside,
               const std::string& model_hash);

// The model of a result file's open-loop runs; empty when they do not say, or there are several.
std::string model_of(const traces::ResultsContent& content);

}  // namespace kvgrind::program
