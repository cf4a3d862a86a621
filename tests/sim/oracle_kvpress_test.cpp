// Worked examples of methods that NVIDIA/kvpress brings beside the published ones, on the fixture T8: kept sets and
// scores computed by hand from the formulas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sim/engine/bound_policy.h"
#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

using Positions = std::vector<std::int64_t>;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

TEST(SimLayerKv, ALayerThatLooksAtSinksAndRecentsKeepsThoseAlone) {
  EXPECT_NEAR(columns(attention(), "sink_recent_mass(last=1,sinks=1,recent=2)").figures.at("mass"), 0.3, 1e-6);
  EXPECT_THAT(kept(attention(), "simlayerkv(threshold=0.25,sinks=1,recent=2)", "1"), ElementsAre(0, 7));
  EXPECT_EQ(kept(attention(), "simlayerkv(threshold=0.31,sinks=1,recent=2)", "0.1").size(), 8u);
  EXPECT_EQ(kept(attention(), "simlayerkv(threshold=0.01,sinks=3,recent=4)", "0.1").size(), 8u);  // too short to cut
  EXPECT_EQ(kept(attention(), "simlayerkv(threshold=1,sinks=1,recent=2)", "0.1").size(), 8u);
}

TEST(Chunkwise, EveryChunkKeepsItsShareByItsOwnScores) {
  // Norms 1 1 √2 | 2 2 1 | √2 5, smaller is better; half of three is one.
  EXPECT_THAT(kept(geometry(), "chunkwise(score=key_norm,size=3)", "0.5"), ElementsAre(0, 5, 6));
  EXPECT_THAT(kept(geometry(), "knorm", "0.5"), ElementsAre(0, 1, 2, 5));
  EXPECT_EQ(kept(geometry(), "chunkwise(score=key_norm,size=3)", "1").size(), 8u);
  EXPECT_EQ(kept(geometry(), "chunkwise(score=key_norm,size=3)", "1t").size(), 3u);  // never fewer than one a chunk
}

TEST(KeyRerotation, KeepsWhatItsScoreKeeps) {
  for (const char* amount : {"2t", "4t", "0.7"})
    EXPECT_EQ(kept(geometry(), "key_rerotation", amount), kept(geometry(), "keydiff", amount)) << amount;
}

TEST(Leverage, KeysThatTheOthersCannotRebuild) {
  EXPECT_THAT(columns(geometry(), "leverage(sketch=0)").s,
              Pointwise(FloatNear(1e-4f), {.0662f, .0964f, .0017f, .2765f, .2564f, .3244f, .2766f, .7002f}));
  EXPECT_THAT(kept(geometry(), "leverage", "3t"), ElementsAre(5, 6, 7));
}

}  // namespace
}  // namespace kvgrind::tests
