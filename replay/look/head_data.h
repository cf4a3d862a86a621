// Queries, keys and LSE of one query head, read once and shared by everything that looks at it.
#pragma once
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "core/array.h"
#include "core/progress.h"
#include "replay/open_loop/recorded_run.h"

namespace kvgrind::replay {

struct HeadData {
  std::vector<std::int64_t> position;  // of the recorded queries, ascending
  Array<float, 2> q;                   // [queries, D] post-RoPE
  Array<float, 2> k;                   // [T, D] post-RoPE
  std::vector<float> lse;              // [T], natural log
  std::int64_t bytes() const;
};

// The most recently used heads, up to a limit of bytes. Thread-safe; what is there comes without waiting for reads.
class HeadCache {
 public:
  explicit HeadCache(std::int64_t limit_bytes) : limit_(limit_bytes) {}
  // Error(usage) for a layer, head or sequence that is not there.
  std::shared_ptr<const HeadData> get(const RecordedRun& run, std::int64_t sequence, std::int64_t layer,
                                      std::int64_t query_head, const CancelToken& cancel = {});
  std::int64_t bytes() const;

 private:
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t>;
  std::int64_t limit_;
  mutable std::mutex mutex_;
  std::timed_mutex reading_;  // one read of the file at a time: who waits here can be cancelled
  std::list<std::pair<Key, std::shared_ptr<const HeadData>>> used_;  // latest first
};

void check_head(const RecordedRun& run, std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                const char* doing);

}  // namespace kvgrind::replay
