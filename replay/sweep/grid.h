// The grid of a sweep and its job list. Job numbers are stable: policy-major, then budget, protocol, seed, sequence.
// JSON form (all keys but policies optional; flags of the program override them):
//   {"policies": ["snapkv", "h2o(variant=online)"], "budgets": [0.1, "512t", "64MiB"], "removed": [0.8],
//    "protocols": ["blind"], "sequences": [1, 2], "seeds": [0]}
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/calibration.h"
#include "core/json.h"
#include "replay/open_loop/protocol.h"
#include "replay/open_loop/recorded_run.h"
#include "sim/engine/policy.h"

namespace kvgrind::replay {

struct Grid {
  std::vector<std::string> policies;    // lines or preset calls, as typed
  std::vector<sim::Amount> amounts;     // budgets, then removed shares
  std::vector<Protocol> protocols;      // empty = blind
  std::vector<std::int64_t> sequences;  // empty = every sequence with tokens after the blind moment, else all
  std::vector<std::uint64_t> seeds;     // empty = 0
  // What `kvgrind fit` wrote, for policies that need it; not part of the JSON form (its hash is in the policy).
  std::vector<std::shared_ptr<const Calibration>> calibrations = {};
};

Grid grid_from_json(const json::object& object, const std::string& where);  // Error(usage) names key and place
Grid grid_from_text(std::string_view text, const std::string& where);
json::object grid_to_json(const Grid& grid);  // grid_from_json gives it back
// The grid of the first run row that has one (`sweep --from all.jsonl`); Error(usage) without.
Grid grid_from_runs(const std::vector<json::object>& runs, const std::string& where);

// Fills what is empty from the recording; checks that sequences exist and that every policy binds.
Grid resolve_grid(const Grid& grid, const RecordedRun& run);

struct SweepJob {
  std::int64_t number = 0;
  std::string typed;  // policy as typed
  sim::PolicyPtr policy;
  sim::Amount amount;
  Protocol protocol = Protocol::blind;
  std::uint64_t seed = 0;
  std::int64_t sequence = 0;
};
// A bound policy with the calibrations it needs: those named in its line are read, else the one of its method.
sim::PolicyPtr calibrated_policy(const std::string& text,
                                 const std::vector<std::shared_ptr<const Calibration>>& calibrations);
std::vector<SweepJob> list_jobs(const Grid& resolved);
std::string job_text(const SweepJob& job);  // "12: snapkv --budget 0.2 --protocol blind --seq 3 --seed 0"

// "i/n", 0 ≤ i < n; jobs with number % n == i. Error(usage).
struct Shard {
  std::int64_t index = 0, count = 1;
};
Shard parse_shard(std::string_view text);

}  // namespace kvgrind::replay
