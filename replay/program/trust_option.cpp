#include "replay/program/trust_option.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "replay/report/trust.h"

namespace kvgrind::program {

void add_trust_flag(Options& options, std::string& file) {
  options.text("--trust-file", file,
               "trust.json of kvgrind validate; without it, one for the same weights is looked for beside the files");
}

TrustFound trust_for(const std::string& file, const std::vector<std::filesystem::path>& beside,
                     const std::string& model_hash, std::string_view headline) {
  if (!file.empty()) {
    const replay::Trust trust = replay::read_trust(file);
    if (!model_hash.empty() && trust.model_hash != model_hash)
      throw Error(Category::usage, {.doing = "showing what validate measured",
                                    .on = file,
                                    .found = fmt::format("weights with the hash {}", trust.model_hash),
                                    .expected = fmt::format("those of the results, {}", model_hash),
                                    .next = "run kvgrind validate on the model that was recorded"});
    return {replay::trust_lines(trust, headline), trust.block};
  }
  for (const std::filesystem::path& path : beside) {
    if (model_hash.empty()) break;
    if (const auto trust = replay::find_trust(path.parent_path(), model_hash))
      return {replay::trust_lines(*trust, headline), trust->block};
  }
  return {replay::no_trust_lines(headline), nullptr};
}

void add_trust(replay::Report& report, const std::string& file, const std::vector<std::filesystem::path>& beside,
               const std::string& model_hash) {
  const auto open = std::find_if(report.tables.begin(), report.tables.end(),
                                 [](const replay::ReportTable& table) { return table.loop == "open"; });
  if (open == report.tables.end()) return;
  TrustFound found = trust_for(file, beside, model_hash, open->headline);
  report.trust = std::move(found.lines);
  report.trust_block = std::move(found.block);
}

std::string model_of(const traces::ResultsContent& content) {
  std::string out;
  for (const json::object& run : content.runs) {
    const json::value* loop = run.if_contains("loop");
    if (loop && loop->is_string() && loop->as_string() == "closed") continue;
    const json::value* hash = run.if_contains("model_hash");
    if (!hash || !hash->is_string()) continue;
    const std::string one(hash->as_string());
    if (!out.empty() && one != out) return {};
    out = one;
  }
  return out;
}

}  // namespace kvgrind::program
