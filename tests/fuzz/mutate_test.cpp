// The fuzzer itself: it must notice a reader that crashes, hangs on to memory or throws something else.
#include "tests/fuzz/mutate.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <csignal>
#include <stdexcept>

#include "core/error.h"

namespace kvgrind::tests {
namespace {

const std::string good = "{\"a\":[1,2,3]}";

int failures_of(const std::function<void(const std::string&)>& read) {
  ::testing::TestPartResultArray results;
  {
    ::testing::ScopedFakeTestPartResultReporter reporter(
        ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    fuzz("self", {good}, read);
  }
  return results.size();
}

TEST(Fuzzer, IsSilentAboutErrors) {
  EXPECT_EQ(failures_of([](const std::string& file) {
              if (file != good) throw Error(Category::damaged, {.found = "a mutation"});
            }),
            0);
}

TEST(Fuzzer, NoticesCrashesAndOtherExceptions) {
  EXPECT_GT(failures_of([](const std::string& file) {
              if (file.find('[') == std::string::npos) std::raise(SIGKILL);
            }),
            0);
  EXPECT_GT(failures_of([](const std::string& file) {
              if (file.find('[') == std::string::npos) throw std::length_error("not ours");
            }),
            0);
}

TEST(Fuzzer, MutationsDependOnTheSeedAlone) {
  std::mt19937_64 a(5), b(5), c(6);
  int different = 0;
  for (int i = 0; i < 50; ++i) {
    const std::string one = mutated(good, "other text", a);
    EXPECT_EQ(one, mutated(good, "other text", b));
    different += one != mutated(good, "other text", c);
  }
  EXPECT_GT(different, 40);
}

}  // namespace
}  // namespace kvgrind::tests
