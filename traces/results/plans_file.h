// plans.h5: what became of every token's K and V, per job. Layout (CONTRACTS 5): /jobs/<n>, n from 0, with attributes
// policy, preset, keep (f64, NaN if not a fraction), removed (f64 or NaN), compress_at (i64), sequence (i64); datasets
// L<l> uint8 [heads, T]: 0 dropped, 1 exact, 2 merged, 3 coded, 4 recomputable, 5 expired, +16 host, +32 disk; V/L<l>
// only where V differs from K.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace kvgrind::traces {

struct JobPlan {
  std::string policy, preset;
  double keep = std::numeric_limits<double>::quiet_NaN();
  double removed = std::numeric_limits<double>::quiet_NaN();
  std::int64_t compress_at = 0;
  std::int64_t sequence = 0;
  std::vector<std::vector<std::vector<std::uint8_t>>> k, v;  // [L][heads][T]; v empty = as k
};

class PlansFile {
 public:
  // Error(write) when the file exists and force is off. Written to `<path>.part`, renamed by close().
  PlansFile(const std::filesystem::path& path, bool force);
  ~PlansFile();
  void write(std::int64_t job, const JobPlan& plan);
  void close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Reads one job back; Error(missing | damaged).
JobPlan read_job_plan(const std::filesystem::path& path, std::int64_t job);
std::vector<std::int64_t> list_job_plans(const std::filesystem::path& path);

}  // namespace kvgrind::traces
