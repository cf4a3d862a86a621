// Small core values: hashes, views, arrays, handles, errors, parallel_for.
#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>

#include "core/array.h"
#include "core/error.h"
#include "core/handle.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "tests/support/for_all.h"

namespace kvgrind {
namespace {

TEST(Hash, KnownVectors) {
  EXPECT_EQ(hex(hash_text("")), "2d06800538d394c2");
  EXPECT_EQ(hex(hash_text("a")), "e6c632b61e964e1f");
  EXPECT_EQ(hex(hash_text("abc")), "78af5f94892f3950");
  EXPECT_EQ(hex(5), "0000000000000005");
}

TEST(Hash, PiecesHashLikeTheWhole) {
  tests::for_all(31, 50, [](std::mt19937_64& rng) {
    std::string bytes(rng() % 3000, '\0');
    for (char& c : bytes) c = static_cast<char>(rng());
    Hasher hasher;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t n = std::min<std::size_t>(1 + rng() % 400, bytes.size() - at);
      hasher.add(bytes.data() + at, static_cast<std::int64_t>(n));
      at += n;
    }
    EXPECT_EQ(hasher.digest(), hash_text(bytes));
    if (!bytes.empty()) {
      std::string other = bytes;
      other[rng() % other.size()] ^= 1;
      EXPECT_NE(hash_text(other), hash_text(bytes));
    }
  });
}

TEST(View, IndexesSlicesAndStrides) {
  std::vector<int> values(2 * 3 * 4);
  std::iota(values.begin(), values.end(), 0);
  const View<int, 3> v(values.data(), {2, 3, 4});
  EXPECT_EQ(v(1, 2, 3), 23);
  EXPECT_EQ(v[1][2][3], 23);
  EXPECT_EQ(v.size(), 24);
  EXPECT_TRUE(v.dense());
  EXPECT_EQ(v[1].slice(1, 2)(0, 0), 16);
  EXPECT_EQ(v[1].slice(1, 2).extent(0), 2);
  const View<const int, 2> every_other(values.data(), {3, 2}, {8, 2});
  EXPECT_EQ(every_other(2, 1), 18);
  EXPECT_FALSE(every_other.dense());
  const View<const int, 3> constant = v;
  v(0, 0, 0) = 99;
  EXPECT_EQ(constant(0, 0, 0), 99);
  EXPECT_TRUE((View<int, 2>(values.data(), {1, 4}, {1000, 1}).dense()));  // the stride of a single row is idle
}

TEST(View, ArrayOwnsZeros) {
  Array<float, 2> a({3, 5});
  for (std::int64_t i = 0; i < a.size(); ++i) EXPECT_EQ(a.data()[i], 0.0f);
  a(2, 4) = 1.0f;
  const Array<float, 2> copy = a;
  a(2, 4) = 2.0f;
  EXPECT_EQ(copy(2, 4), 1.0f);
  EXPECT_EQ(copy.view().extent(1), 5);
}

int closed = 0;
void close_int(int) { ++closed; }

TEST(Handle, ClosesOnce) {
  using IntHandle = Handle<int, close_int, -1>;
  closed = 0;
  {
    IntHandle a(3);
    IntHandle b = std::move(a);
    EXPECT_FALSE(a);
    EXPECT_EQ(b.get(), 3);
    IntHandle c(4);
    c = std::move(b);
    EXPECT_EQ(closed, 1);
    EXPECT_EQ(c.release(), 3);
    IntHandle none;
  }
  EXPECT_EQ(closed, 1);
}

TEST(Error, TextHasItsPartsInOrder) {
  const Error error(Category::damaged, {.doing = "reading trace",
                                        .on = "run.kvt: /k",
                                        .found = "rank 3",
                                        .expected = "rank 4",
                                        .usable = "the first 1920 tokens can be used",
                                        .next = "run `kvgrind repair`"});
  EXPECT_STREQ(error.what(),
               "reading trace run.kvt: /k: found rank 3, expected rank 4; the first 1920 tokens can be used; "
               "run `kvgrind repair`");
  EXPECT_EQ(exit_code(error.category()), 4);
  EXPECT_NE(std::string(error.where().file_name()).find("values_test"), std::string::npos);
  EXPECT_EQ(message_text({.doing = "opening a.kvt"}), "opening a.kvt");
  EXPECT_EQ(message_text({.found = "nothing"}), "found nothing");
  EXPECT_EQ(message_text({.doing = "x", .expected = "y"}), "x: expected y");
}

TEST(Error, EveryCategoryHasItsExitCode) {
  const std::pair<Category, int> codes[] = {
      {Category::jobs_failed, 1}, {Category::usage, 2},     {Category::missing, 3},     {Category::damaged, 4},
      {Category::write, 5},       {Category::threshold, 6}, {Category::unavailable, 7}, {Category::interrupted, 130}};
  for (const auto& [category, code] : codes) {
    EXPECT_EQ(exit_code(category), code);
    EXPECT_STRNE(category_name(category), "unknown");
  }
}

class ParallelFor : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_thread_count(GetParam()); }
  void TearDown() override { set_thread_count(0); }
};
INSTANTIATE_TEST_SUITE_P(Threads, ParallelFor, ::testing::Values(1, 2, 5));

TEST_P(ParallelFor, CallsEveryIndexOnce) {
  EXPECT_EQ(thread_count(), GetParam());
  for (const std::int64_t n : {0, 1, 2, 17, 10000})
    for (const std::int64_t grain : {1, 64}) {
      std::vector<int> calls(static_cast<std::size_t>(n));
      parallel_for(
          n, [&](std::int64_t i) { ++calls[static_cast<std::size_t>(i)]; }, grain);
      for (const int c : calls) ASSERT_EQ(c, 1);
    }
}

TEST_P(ParallelFor, NestsAndSums) {
  std::vector<std::int64_t> sums(50);
  parallel_for(50, [&](std::int64_t i) {
    std::vector<std::int64_t> part(100);
    parallel_for(100, [&](std::int64_t j) { part[static_cast<std::size_t>(j)] = i * j; });
    sums[static_cast<std::size_t>(i)] = std::accumulate(part.begin(), part.end(), std::int64_t{0});
  });
  for (std::int64_t i = 0; i < 50; ++i) EXPECT_EQ(sums[static_cast<std::size_t>(i)], i * 4950);
}

TEST_P(ParallelFor, RethrowsAndStaysUsable) {
  EXPECT_THROW(parallel_for(1000,
                            [](std::int64_t i) {
                              if (i == 500) throw Error(Category::usage, {.found = "500"});
                            }),
               Error);
  std::atomic<int> n = 0;
  parallel_for(100, [&](std::int64_t) { ++n; });
  EXPECT_EQ(n, 100);
}

// Another index may fail while this one is in a loop of its own, which must not end half done.
TEST_P(ParallelFor, AnErrorElsewhereLeavesInnerLoopsWhole) {
  std::atomic<int> cut_short = 0;
  for (int round = 0; round < 200; ++round) {
    const auto outer = [&](std::int64_t i) {
      if (i == 7) throw Error(Category::usage, {.found = "7"});
      std::atomic<int> done = 0;
      parallel_for(64, [&](std::int64_t) { ++done; });
      cut_short += done != 64;
    };
    EXPECT_THROW(parallel_for(16, outer), Error);
  }
  EXPECT_EQ(cut_short, 0);
}

TEST(Progress, CancelReachesCopies) {
  CancelToken token;
  const CancelToken copy = token;
  EXPECT_NO_THROW(copy.throw_if_cancelled());
  token.cancel();
  EXPECT_TRUE(copy.cancelled());
  try {
    copy.throw_if_cancelled();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::interrupted);
  }
}

}  // namespace
}  // namespace kvgrind
