// Eight-bit floats: against all codes there are, by hand, and as the code action charges them.
#include "sim/codec/fp8_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "sim/engine/policy_run.h"
#include "tests/support/for_all.h"
#include "tests/support/synthetic_source.h"

namespace kvgrind::tests {
namespace {

using sim::from_e4m3;
using sim::to_e4m3;

TEST(Fp8, ValuesByHand) {
  EXPECT_EQ(from_e4m3(0x00), 0.0f);
  EXPECT_EQ(from_e4m3(0x01), 0x1p-9f);      // smallest
  EXPECT_EQ(from_e4m3(0x07), 7 * 0x1p-9f);  // largest subnormal
  EXPECT_EQ(from_e4m3(0x08), 0x1p-6f);      // smallest normal
  EXPECT_EQ(from_e4m3(0x38), 1.0f);
  EXPECT_EQ(from_e4m3(0x3c), 1.5f);
  EXPECT_EQ(from_e4m3(0x7e), 448.0f);
  EXPECT_EQ(from_e4m3(0xfe), -448.0f);
  EXPECT_TRUE(std::isnan(from_e4m3(0x7f)));
  EXPECT_EQ(to_e4m3(1e9f), 0x7e);
  EXPECT_EQ(to_e4m3(-std::numeric_limits<float>::infinity()), 0xfe);
  EXPECT_EQ(to_e4m3(std::nanf("")) & 0x7f, 0x7f);
  EXPECT_EQ(to_e4m3(17.0f), to_e4m3(16.0f));  // half way between 16 and 18: the even code
  EXPECT_EQ(to_e4m3(19.0f), to_e4m3(20.0f));
}

TEST(Fp8, EveryCodeComesBack) {
  for (int code = 0; code < 256; ++code)
    if ((code & 0x7f) != 0x7f) {
      EXPECT_EQ(to_e4m3(from_e4m3(static_cast<std::uint8_t>(code))), code);
    }
}

TEST(Fp8, RoundsToTheNearestOfAllCodes) {
  for_all(41, 4000, [](std::mt19937_64& rng) {
    std::normal_distribution<float> normal;
    const float x = std::ldexp(normal(rng), static_cast<int>(rng() % 24) - 14);
    float nearest = 0;
    for (int code = 0; code < 256; ++code)
      if (const float y = from_e4m3(static_cast<std::uint8_t>(code));
          !std::isnan(y) && std::abs(y - x) < std::abs(nearest - x))
        nearest = y;
    EXPECT_EQ(std::abs(from_e4m3(to_e4m3(x)) - x), std::abs(nearest - x)) << x;
  });
}

TEST(Fp8, PackedBytesAreWhatIsCharged) {
  const sim::Fp8Codec codec;
  for_all(43, 20, [&](std::mt19937_64& rng) {
    const std::int64_t n = 1 + static_cast<std::int64_t>(rng() % 40), dim = 1 + static_cast<std::int64_t>(rng() % 20);
    Array<float, 2> x({n, dim});
    std::normal_distribution<float> normal(0, 3);
    for (std::int64_t i = 0; i < x.size(); ++i) x.data()[i] = normal(rng);
    const auto packed = codec.pack(x);
    EXPECT_EQ(static_cast<std::int64_t>(packed.size()), codec.stored_bytes(sim::Part::key, n, dim));
    EXPECT_EQ(static_cast<std::int64_t>(packed.size()), n * dim);
    Array<float, 2> encoded = x;
    codec.encode(sim::Part::key, encoded.view());
    const Array<float, 2> decoded = codec.unpack(packed, n, dim);
    for (std::int64_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(encoded.data()[i], decoded.data()[i]);
      EXPECT_LE(std::abs(decoded.data()[i] - x.data()[i]), std::max(std::abs(x.data()[i]) / 16, 0x1p-10f));
    }
  });
}

// The whole cache coded at full budget: what the ledger charges, and which codec holds which part.
TEST(Fp8, TheCodeActionChargesAndStates) {
  std::mt19937_64 rng(45);
  const SyntheticSource source(random_data(rng, SyntheticShape{}));
  const ModelCard& card = source.card();
  const std::int64_t tokens = source.tokens();
  struct Want {
    const char* act;
    std::int64_t bytes;  // of one group's tokens, K and V
  };
  const std::int64_t dim = card.head_dim, parts = (dim + 31) / 32;
  const std::int64_t token_bytes = (tokens * dim * 2 + 7) / 8 + 4 * tokens * parts;
  const std::int64_t channel_bytes = (tokens * dim * 2 + 7) / 8 + 4 * dim * ((tokens + 31) / 32);
  for (const Want& want :
       {Want{"code(format=e4m3)", 2 * tokens * dim}, Want{"code(bits=2,axis=token)", 2 * token_bytes},
        Want{"code(bits=2,axis=channel)", 2 * channel_bytes},
        Want{"code(bits=2,axis=key_channel)", token_bytes + channel_bytes}}) {
    sim::CacheState cache(card);
    const auto policy = sim::bind_policy(std::string("score=none budget=all select=all act=") + want.act +
                                         " schedule=prefill_end read=all");
    sim::PolicyRun run({.policy = policy, .amount = {sim::Amount::Kind::fraction, 1.0}}, source, cache);
    source.feed(cache, 0, tokens);
    for (std::int64_t l = 0; l < card.layers; ++l) run.layer_done(l, 0, tokens);
    run.chunk_done(0, tokens);
    run.segment_end(Role::context, tokens, true);
    EXPECT_EQ(cache.ledger().stored_bytes(), want.bytes * card.layers * card.kv_heads) << want.act;
    for (const std::uint8_t state : cache.token_states(0, 0, sim::Part::key))
      EXPECT_EQ(state & 15, static_cast<int>(sim::Content::coded));
  }
}

}  // namespace
}  // namespace kvgrind::tests
