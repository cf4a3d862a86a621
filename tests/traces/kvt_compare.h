// A trace against what its driver fed.
#pragma once
#include <gtest/gtest.h>

#include "tests/traces/kvt_driver.h"
#include "traces/kvt/recording_plan.h"

namespace kvgrind::tests {

// Everything per token of every sequence of `trace` equals what the driver feeds. Returns tokens compared.
inline std::int64_t expect_equal(const Driver& driver, const traces::Trace& trace,
                                 const traces::RecordOptions& options) {
  const Shape& s = driver.shape();
  std::int64_t compared = 0;
  for (const traces::SequenceInfo& info : trace.sequences()) {
    const std::vector<std::int32_t> tokens = trace.tokens(info.id);
    const std::vector<std::string> text = trace.token_bytes(info.id);
    EXPECT_EQ(static_cast<std::int64_t>(tokens.size()), info.tokens);
    EXPECT_EQ(static_cast<std::int64_t>(text.size()), info.tokens);
    for (std::int64_t t = 0; t < info.tokens; ++t) {
      EXPECT_EQ(tokens[static_cast<std::size_t>(t)], driver.token(info.id, t));
      EXPECT_EQ(text[static_cast<std::size_t>(t)], token_text(tokens[static_cast<std::size_t>(t)]));
    }
    compared += info.tokens;
    for (std::int64_t l = 0; l < s.layers; ++l) {
      const Array<float, 2> lse = trace.lse(info.id, l);
      const std::vector<float> attn_in = trace.attention_input_norm(info.id, l), hidden = trace.hidden_norm(info.id, l);
      for (std::int64_t t = 0; t < info.tokens; ++t) {
        const std::int64_t from = driver.source(info.id, t);
        for (std::int64_t h = 0; h < s.query_heads; ++h) EXPECT_EQ(lse(t, h), fed("lse", from, t, l, h));
        double norm = 0.0, attn_norm = 0.0;
        for (std::int64_t i = 0; i < s.hidden; ++i) {
          norm += std::pow(static_cast<double>(fed("in", from, t, l, i)), 2);
          attn_norm += std::pow(static_cast<double>(fed("attn_in", from, t, l, i)), 2);
        }
        EXPECT_FLOAT_EQ(hidden[static_cast<std::size_t>(t)], static_cast<float>(std::sqrt(norm)));
        EXPECT_FLOAT_EQ(attn_in[static_cast<std::size_t>(t)], static_cast<float>(std::sqrt(attn_norm)));
      }
      for (std::int64_t h = 0; h < s.kv_heads; ++h) {
        const Array<float, 2> k = trace.keys(info.id, l, h), v = trace.values(info.id, l, h);
        for (std::int64_t t = 0; t < info.tokens; ++t)
          for (std::int64_t d = 0; d < s.head_dim; ++d) {
            const std::int64_t from = driver.source(info.id, t);
            EXPECT_EQ(k(t, d), stored(s.dtype, fed("k", from, t, l, h * s.head_dim + d)));
            EXPECT_EQ(v(t, d), stored(s.dtype, fed("v", from, t, l, h * s.head_dim + d)));
          }
      }
      for (std::int64_t h = 0; h < s.query_heads; ++h) {
        const traces::RecordedQueries q = trace.queries(info.id, l, h);
        std::size_t row = 0;
        for (std::int64_t t = 0; t < info.tokens; ++t) {
          const std::int64_t from = driver.source(info.id, t);
          const TokenSequence& one = driver.sequences()[static_cast<std::size_t>(from)];
          const bool decode = t >= one.fork_at + static_cast<std::int64_t>(one.ids.size());
          const bool kept = traces::QueryChoice(options, one, from).keeps(t, decode);
          EXPECT_EQ(trace.has_queries(info.id, t, 1), kept && trace.queries(info.id, l, h).position.size() > 0) << t;
          if (!kept) continue;
          if (row >= q.position.size()) {
            ADD_FAILURE() << "query " << t << " is missing";
            return compared;
          }
          EXPECT_EQ(q.position[row], t);
          for (std::int64_t d = 0; d < s.head_dim; ++d)
            EXPECT_EQ(q.q(static_cast<std::int64_t>(row), d),
                      stored(s.dtype, fed("q", from, t, l, h * s.head_dim + d)));
          ++row;
        }
        EXPECT_EQ(row, q.position.size());
      }
    }
  }
  return compared;
}

}  // namespace kvgrind::tests
