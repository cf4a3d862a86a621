// Makes the base of the attention pyramid of every head of a trace.
#pragma once
#include <filesystem>

#include "core/progress.h"
#include "traces/index/index_file.h"
#include "traces/kvt/trace.h"

namespace kvgrind::replay {

struct IndexOutcome {
  std::filesystem::path path;
  std::int64_t maps = 0, bytes = 0;
};
// Error(write) when there is an index and `force` is off; cancelled: nothing is left behind.
IndexOutcome build_index(std::shared_ptr<const traces::Trace> trace, bool force, Progress* progress,
                         const CancelToken& cancel);

}  // namespace kvgrind::replay
