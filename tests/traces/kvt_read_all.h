// Reads everything a trace offers, as a replay would.
#pragma once
#include "traces/kvt/trace.h"

namespace kvgrind::tests {

inline void read_all(const traces::Trace& trace) {
  const ModelCard& card = trace.card();
  for (std::int64_t l = 0; l < card.layers; ++l) (void)trace.output_projection(l);
  for (const traces::SequenceInfo& info : trace.sequences()) {
    (void)trace.tokens(info.id);
    (void)trace.token_bytes(info.id);
    (void)trace.nll(info.id);
    (void)trace.top_ids(info.id);
    (void)trace.top_log_probabilities(info.id);
    (void)trace.has_queries(info.id, 0, info.tokens);
    for (std::int64_t l = 0; l < card.layers; ++l) {
      (void)trace.lse(info.id, l);
      (void)trace.hidden_norm(info.id, l);
      (void)trace.attention_input_norm(info.id, l);
      for (std::int64_t s = -1; s < static_cast<std::int64_t>(info.segments.size()); ++s)
        (void)trace.column_sums(info.id, l, s);
      for (std::int64_t h = 0; h < card.kv_heads; ++h) {
        (void)trace.keys(info.id, l, h, traces::KeyRope::pre);
        (void)trace.values(info.id, l, h);
      }
      for (std::int64_t h = 0; h < card.query_heads; ++h) {
        (void)trace.queries(info.id, l, h);
        (void)trace.query_statistics(info.id, l, h);
        (void)trace.pooled_map(info.id, l, h);
      }
    }
  }
}

}  // namespace kvgrind::tests
