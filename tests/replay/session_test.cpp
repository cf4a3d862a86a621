// The facade: tiles against softmax, sums against column sums, jobs against the open loop.
#include "replay/session.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/replay/synthetic_run.h"

namespace kvgrind::replay {
namespace {

TEST(Session, TilesEqualSoftmaxHoweverPooled) {
  const auto run = tests::synthetic_run();
  const Session session(run, nullptr);
  const Array<float, 2> p = run->attention(1, 1, 3);
  for (const std::int64_t cell : {1, 7})
    for (const Pool pool : {Pool::max, Pool::mean, Pool::sum}) {
      const Tile tile = session.attention_tile({.sequence = 1,
                                                .layer = 1,
                                                .query_head = 3,
                                                .query_begin = 100,
                                                .query_end = 140,
                                                .key_begin = 80,
                                                .key_end = 140,
                                                .cell = cell,
                                                .pool = pool});
      EXPECT_TRUE(tile.exact);
      ASSERT_EQ(tile.value.extent(0), (40 + cell - 1) / cell);
      ASSERT_EQ(tile.value.extent(1), (60 + cell - 1) / cell);
      for (std::int64_t r = 0; r < tile.value.extent(0); ++r)
        for (std::int64_t c = 0; c < tile.value.extent(1); ++c) {
          double sum = 0, largest = 0, n = 0;
          for (std::int64_t i = 100 + r * cell; i < std::min<std::int64_t>(140, 100 + (r + 1) * cell); ++i)
            for (std::int64_t j = 80 + c * cell; j < std::min<std::int64_t>(140, 80 + (c + 1) * cell) && j <= i; ++j) {
              sum += static_cast<double>(p(i, j));
              largest = std::max(largest, static_cast<double>(p(i, j)));
              ++n;
            }
          const double expected = pool == Pool::max ? largest : pool == Pool::sum ? sum : n > 0 ? sum / n : 0;
          EXPECT_NEAR(tile.value(r, c), expected, 1e-5);
        }
    }
}

TEST(Session, UnrecordedQueriesAreNaN) {
  const Session session(tests::synthetic_run({.recorded_every = 4}), nullptr);
  const Tile tile =
      session.attention_tile({.sequence = 1, .query_begin = 120, .query_end = 128, .key_begin = 0, .key_end = 128});
  EXPECT_FALSE(tile.exact);
  EXPECT_FALSE(std::isnan(tile.value(0, 0)));
  EXPECT_TRUE(std::isnan(tile.value(1, 0)));
}

TEST(Session, WrongRangesAreRefused) {
  const Session session(tests::synthetic_run(), nullptr);
  for (const TileRequest& bad :
       {TileRequest{.query_end = 0, .key_end = 4}, TileRequest{.query_end = 4000, .key_end = 4},
        TileRequest{.layer = 9, .query_end = 4, .key_end = 4}, TileRequest{.query_end = 4, .key_end = 4, .cell = 0},
        TileRequest{.sequence = 77, .query_end = 4, .key_end = 4}})
    EXPECT_THROW((void)session.attention_tile(bad), Error);
  EXPECT_THROW((void)session.received_mass(0, 5), Error);
  EXPECT_THROW((void)session.replay({.policy = "snapkvv"}), Error);
}

TEST(Session, ReceivedMassSumsToTheQueries) {
  const auto run = tests::synthetic_run();
  const Session session(run, nullptr);
  double total = 0;
  for (const float mass : session.received_mass(1, 0)) total += static_cast<double>(mass);
  EXPECT_NEAR(total, 152.0, 1e-2);
}

TEST(Session, JobsAreThoseOfTheOpenLoop) {
  const auto run = tests::synthetic_run();
  const Session session(run, nullptr);
  const auto view = session.replay({.policy = "knorm", .budget = "0.25", .sequence = 2});
  const SequenceData data(run, 2);
  const OpenOutcome outcome = run_open(data, {.policy = sim::bind_policy("knorm"), .amount = sim::parse_amount("0.25")},
                                       {.token_states = true});
  EXPECT_EQ(view->outcome.k_states, outcome.k_states);
  EXPECT_EQ(view->row.metrics.at("D.answer").value, outcome.metrics.at("D.answer").value);
  EXPECT_EQ(view->row.preset, "knorm");
  EXPECT_EQ(session.data(2), session.data(2));
  CancelToken cancelled;
  cancelled.cancel();
  EXPECT_THROW((void)session.replay({.policy = "knorm", .sequence = 2}, cancelled), Error);
}

}  // namespace
}  // namespace kvgrind::replay
