// What a streaming recorder does when its spool fills up, and the account of it that goes into the file.
//   block   the run waits for room
//   drop    decode steps that find no room lose their queries, LSE and norms, whole halves of the ring at once; a
//   prompt
//           pass that finds none loses its queries. K and V are never lost: they are taken from the cache later
//   shrink  as the spool fills, every fourth query is kept, then none; then the run waits
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/capture/spool.h"

namespace kvgrind::replay {

enum class OnFull : std::uint8_t { block, drop, shrink };
std::string_view on_full_name(OnFull choice);
OnFull on_full_from_name(std::string_view name);  // Error(usage)

class Pressure {
 public:
  explicit Pressure(OnFull choice) : choice_(choice) {}

  // Of the queries that are wanted, every n-th is kept now: 1 = all, 0 = none.
  std::int64_t every(const kernels::CaptureSpool& spool) const;
  // Whether what takes that much is given up now.
  bool gives_up(const kernels::CaptureSpool& spool, std::int64_t size_bytes) const;

  void dropped_steps(std::int64_t steps) { steps_ += steps; }
  void dropped_prompt(std::int64_t queries) { prompt_ += queries; }
  void left_out(std::int64_t queries) {
    if (queries > 0) shrunk_ += queries, ++passes_;
  }
  // Lines for the file's list of what was not recorded.
  std::vector<std::string> remarks() const;

 private:
  OnFull choice_;
  std::int64_t steps_ = 0, prompt_ = 0, shrunk_ = 0, passes_ = 0;
};

}  // namespace kvgrind::replay
