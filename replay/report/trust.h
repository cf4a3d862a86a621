// What `kvgrind validate` measured about the open loop on a model (trust.json), shown beside open-loop claims.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace kvgrind::replay {

// Spearman rank correlation of a figure with the closed loop's loss on one task, with its interval.
struct TrustFigure {
  std::string figure;
  double spearman = 0, lo = 0, hi = 0;  // NaN: nothing to rank
};
struct TrustTask {
  std::string task;
  std::int64_t prompts = 0;
  std::string best;  // the figure to trust there
  std::vector<TrustFigure> figures;
};
struct Trust {
  std::string model, model_hash;
  std::string measured;  // "2026-11-25", may be empty
  std::vector<TrustTask> tasks;
  json::value block;  // as it stood in the file
};

// Error(missing | damaged) names the file and the key.
Trust read_trust(const std::filesystem::path& file);
Trust trust_from_json(const json::value& block, std::string_view where);

// The trust.json for these weights in the folder, or in a folder of it (what `validate -o` wrote); of several the one
// measured last. Files that are no trust files are passed over.
std::optional<Trust> find_trust(const std::filesystem::path& folder, std::string_view model_hash);

// One or two plain lines on what the tables' figure is worth on this model.
std::vector<std::string> trust_lines(const Trust& trust, std::string_view headline);
// The same where nothing was measured: how to get it.
std::vector<std::string> no_trust_lines(std::string_view headline);

}  // namespace kvgrind::replay
