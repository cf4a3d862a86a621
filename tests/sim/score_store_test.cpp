#include "sim/engine/score_store.h"

#include <gtest/gtest.h>

namespace kvgrind::sim {
namespace {

std::vector<Columns> of(std::size_t values) {
  Columns one;
  one.s.assign(values, 1.0f);
  one.extra["more"].assign(values, 2.0f);
  return {one};
}

TEST(ScoreStore, WhatWasNotUsedForLongestGoesFirst) {
  ScoreStore store(3 * 80);  // three of ten values with a second column
  store.keep("a", of(10));
  store.keep("b", of(10));
  store.keep("c", of(10));
  EXPECT_EQ(store.bytes(), 240);
  EXPECT_NE(store.find("a"), nullptr);
  store.keep("d", of(10));
  EXPECT_EQ(store.find("b"), nullptr);
  for (const char* key : {"a", "c", "d"}) EXPECT_NE(store.find(key), nullptr) << key;
  EXPECT_EQ(store.bytes(), 240);
  EXPECT_EQ((*store.find("d"))[0].extra.at("more").size(), 10u);
}

TEST(ScoreStore, TheFirstStaysAndWhatIsTooLargeIsNotKept) {
  ScoreStore store(100);
  store.keep("a", of(5));
  const auto held = store.find("a");
  store.keep("a", of(6));
  EXPECT_EQ(store.find("a"), held);
  store.keep("b", of(13));
  EXPECT_EQ(store.find("b"), nullptr);
  store.keep("c", of(12));
  EXPECT_EQ(store.find("a"), nullptr);
  EXPECT_EQ(held->front().s.size(), 5u);  // who has it keeps it
}

}  // namespace
}  // namespace kvgrind::sim
