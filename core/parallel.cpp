#include "core/parallel.h"

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/info.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>

namespace kvgrind {
namespace {
struct Pool {
  std::mutex mutex;  // of limit
  std::atomic<int> threads = std::max(1, oneapi::tbb::info::default_concurrency());
  std::unique_ptr<oneapi::tbb::global_control> limit;
};
Pool& pool() {
  static Pool instance;
  return instance;
}
}  // namespace

int thread_count() { return pool().threads; }

void set_thread_count(int n) {
  const std::lock_guard lock(pool().mutex);
  pool().threads = n > 0 ? n : std::max(1, oneapi::tbb::info::default_concurrency());
  pool().limit = std::make_unique<oneapi::tbb::global_control>(oneapi::tbb::global_control::max_allowed_parallelism,
                                                               static_cast<std::size_t>(pool().threads.load()));
}

void detail::parallel_for_erased(std::int64_t n, std::int64_t grain, void (*call)(void*, std::int64_t), void* context) {
  if (n <= 0) return;
  if (n <= std::max<std::int64_t>(1, grain) || thread_count() == 1) {
    for (std::int64_t i = 0; i < n; ++i) call(context, i);
    return;
  }
  // A context of its own: an exception elsewhere must not cut this loop short, its caller would go on with half of it.
  // isolate: a thread that waits inside a nested loop must not start an unrelated outer task.
  oneapi::tbb::task_group_context context_of_loop(oneapi::tbb::task_group_context::isolated);
  oneapi::tbb::this_task_arena::isolate([&] {
    oneapi::tbb::parallel_for(
        oneapi::tbb::blocked_range<std::int64_t>(0, n, std::max<std::int64_t>(1, grain)),
        [&](const oneapi::tbb::blocked_range<std::int64_t>& range) {
          for (std::int64_t i = range.begin(); i != range.end(); ++i) call(context, i);
        },
        context_of_loop);
  });
}

}  // namespace kvgrind
