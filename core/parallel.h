// Threads. The only file of the project that uses oneTBB is parallel.cpp.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

namespace kvgrind {

int thread_count();           // threads that parallel_for uses
void set_thread_count(int n); // n ≥ 1; 0 = all cores

namespace detail {
void parallel_for_erased(std::int64_t n, std::int64_t grain, void (*call)(void*, std::int64_t), void* context);
}

// f(i) for i in [0, n), in any order on any thread; returns when all are done. The first exception is rethrown
// after the rest has stopped. Results must not depend on the order: each i writes its own place.
template <class F>
void parallel_for(std::int64_t n, F&& f, std::int64_t grain = 1) {
  using Fn = std::remove_reference_t<F>;
  detail::parallel_for_erased(
      n, grain, [](void* context, std::int64_t i) { (*static_cast<Fn*>(context))(i); },
      const_cast<std::remove_const_t<Fn>*>(&f));
}

}  // namespace kvgrind
