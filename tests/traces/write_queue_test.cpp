// The thread that writes: order, waiting, faults.
#include "traces/kvt/write_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/error.h"

namespace kvgrind::traces {
namespace {

TEST(WriteQueue, DoesAllInOrderAndHoldsNoMoreThanItsLimit) {
  std::vector<int> done;
  std::int64_t most = 0;
  {
    WriteQueue queue(100);
    queue.drain();  // of nothing
    for (int i = 0; i < 500; ++i) {
      const std::int64_t bytes = i % 37 == 0 ? 250 : i % 60;  // one above the limit goes alone
      queue.give(bytes, [&done, i] { done.push_back(i); });
      if (bytes <= 100) most = std::max(most, queue.waiting_bytes());
      if (i == 250) {
        queue.drain();
        EXPECT_EQ(done.size(), 251u);
        EXPECT_EQ(queue.waiting_bytes(), 0);
      }
    }
  }  // ends when all is done
  ASSERT_EQ(done.size(), 500u);
  for (int i = 0; i < 500; ++i) EXPECT_EQ(done[static_cast<std::size_t>(i)], i);
  EXPECT_LE(most, 100);
}

TEST(WriteQueue, TheFirstFaultEndsItAndIsTold) {
  WriteQueue queue(1000);
  std::atomic<int> after = 0;
  queue.give(1, [] { throw Error(Category::write, {.doing = "writing", .found = "no room"}); });
  try {
    for (int i = 0; i < 100000; ++i) queue.give(10, [&] { ++after; });  // more than fits: a waiting giver wakes too
    FAIL() << "told nobody";
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::write);
  }
  EXPECT_THROW(queue.drain(), Error);
  EXPECT_THROW(queue.give(1, [&] { ++after; }), Error);
  EXPECT_EQ(after, 0);
}

}  // namespace
}  // namespace kvgrind::traces
