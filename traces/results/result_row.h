// One line of results.jsonl: `"type":"result"` rows hold what a job found and carry no clock, host or path;
// `"type":"run"` rows (plain objects) hold where and when. Field meanings: traces/results/README.md.
#pragma once
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"

namespace kvgrind::traces {

struct Metric {
  double value = std::numeric_limits<double>::quiet_NaN();
  double lo = std::numeric_limits<double>::quiet_NaN();  // 95 % interval where there is one
  double hi = std::numeric_limits<double>::quiet_NaN();
  std::int64_t n = 0;          // items behind it (queries, answer tokens, prompts)
  std::string kind = "exact";  // exact | estimated | modelled
};
using MetricMap = std::map<std::string, Metric>;

struct ResultRow {
  std::string status = "ok";  // ok | error
  std::string message;        // of an error
  std::string loop = "open";  // open | closed
  std::int64_t job = 0;       // number in the grid
  std::string trace;          // hash of the recording (closed loop: of model and suite)
  std::int64_t sequence = 0;
  std::int64_t context = 0;              // sequence at the root of its forks: what the bootstrap draws
  std::string policy, hash, preset;      // canonical line, its hash, as typed
  std::string budget_asked;              // "0.2", "512t", "removed 0.8"
  std::optional<double> budget_keep;     // where the amount is a fraction
  std::optional<double> budget_removed;  // where it is a removed share
  std::string protocol;                  // blind | aware | …
  std::uint64_t seed = 0;
  double kept_tokens_mean = 0;
  std::int64_t kept_tokens_min = 0, kept_tokens_max = 0;
  double kept_frac = 1, stored_frac = 1, touched_frac = 1;
  MetricMap metrics;
  json::object more;  // further keys, in order (bytes, counts, spans …)
};

json::object to_json(const ResultRow& row);
// Error(damaged) names key and place. Unknown keys land in `more`.
ResultRow result_row_from_json(const json::object& object, const std::string& where);
// What makes two rows the same job: everything asked, nothing found.
std::string job_key(const ResultRow& row);

}  // namespace kvgrind::traces
