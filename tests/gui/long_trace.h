// A recording of one small head over very many tokens, written in pieces: keys of a sink, of a few needles and of the
// rest, so that log-sum-exp is known in closed form and exact without a pass over all pairs.
#pragma once
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "traces/kvt/recorder.h"

namespace kvgrind::tests {

struct LongTrace {
  static constexpr std::int64_t dim = 4, tail = 64, needle_tokens = 8, needles = 40, sinks = 4;
  static constexpr float sink_logit = 3, needle_logit = 9, sink_key = 2, needle_key = 3;
  std::int64_t tokens = 200'000;

  std::int64_t needle_begin(std::int64_t n) const { return (n + 1) * (tokens / (needles + 2)); }
  bool is_needle(std::int64_t t) const {
    const std::int64_t apart = tokens / (needles + 2), n = t / apart - 1;
    return n >= 0 && n < needles && t - needle_begin(n) < needle_tokens;
  }
  bool asks(std::int64_t t) const { return t >= tokens - tail; }  // queries that look for needles
  // Weight of a key for a query, in closed form.
  double weight(std::int64_t query, std::int64_t key) const {
    if (key > query) return 0;
    return std::exp(logit(query, key) - lse(query));
  }
  double logit(std::int64_t query, std::int64_t key) const {
    if (key < sinks) return double(sink_logit);
    return is_needle(key) && asks(query) ? double(needle_logit) : 0.0;
  }
  double lse(std::int64_t query) const {
    const auto first = double(std::min(query + 1, sinks));
    double found = 0;
    if (asks(query)) found = double(needles * needle_tokens);
    return std::log(first * std::exp(double(sink_logit)) + found * std::exp(double(needle_logit)) +
                    (double(query + 1) - first - found));
  }

  // `until`: stops there as a crash would, and leaves path + ".part"; negative: the whole.
  void record(const std::filesystem::path& path, std::int64_t until = -1) const {
    traces::Recorder::Plan plan;
    plan.card.family = "synthetic";
    plan.card.name = "long";
    plan.card.layers = plan.card.query_heads = plan.card.kv_heads = 1;
    plan.card.head_dim = plan.card.hidden = dim;
    plan.card.vocab = 11;
    plan.card.max_positions = 1 << 20;
    plan.card.scale = 1;
    plan.card.rope = {{.inv_freq = {1.0f, 0.01f}}};
    plan.card.layer = {LayerCard{}};
    plan.card.model_hash = "0123456789abcdef";
    plan.sequences.resize(1);
    TokenSequence& sequence = plan.sequences[0];
    for (std::int64_t t = 0; t < tokens; ++t) sequence.ids.push_back(std::int32_t(t % 11));
    sequence.segments = {{Role::context, 0, tokens - tail},
                         {Role::question, tokens - tail, tokens - tail / 2},
                         {Role::answer, tokens - tail / 2, tokens}};
    for (std::int64_t n = 0; n < needles; ++n)
      sequence.spans.push_back({"needle", needle_begin(n), needle_begin(n) + needle_tokens, "n" + std::to_string(n)});
    plan.token_bytes = [](std::int32_t id) { return id == 10 ? std::string(".\n") : " word" + std::to_string(id); };
    traces::RecordOptions options;
    options.column_sums = options.query_statistics = options.pooled_maps = options.logits_top64 = false;
    options.output_projection = false;
    options.fsync = traces::FsyncMode::never;
    const std::vector<std::int32_t> ids = sequence.ids;
    traces::Recorder out(path, std::move(plan), options);
    constexpr std::int64_t piece = 4096;
    for (std::int64_t first = 0; first < tokens; first += piece) {
      const std::int64_t n = std::min(piece, tokens - first);
      std::vector<float> q(std::size_t(n * dim)), k(q), v(q), own_lse(static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t t = first + i;
        float* row = &q[std::size_t(i * dim)];
        row[0] = sink_logit / sink_key;
        row[1] = asks(t) ? needle_logit / needle_key : 0;
        k[std::size_t(i * dim)] = t < sinks ? sink_key : 0;
        k[std::size_t(i * dim + 1)] = is_needle(t) ? needle_key : 0;
        for (std::int64_t d = 0; d < dim; ++d) v[std::size_t(i * dim + d)] = float((t * 7 + d) % 13) - 6;
        own_lse[std::size_t(i)] = float(lse(t));
      }
      const auto rows = [](const std::vector<float>& data) {
        return TapRows{.dtype = DType::f32, .data = data.data(), .row_stride = dim, .head_stride = dim};
      };
      out.begin({.sequence = 0,
                 .first = first,
                 .ids = std::span<const std::int32_t>(ids).subspan(std::size_t(first), std::size_t(n)),
                 .decode = false});
      out.layer({.layer = 0,
                 .q = {},
                 .q_pre = {},
                 .k = {},
                 .v = {},
                 .lse = View<const float, 2>(own_lse.data(), {n, 1}),
                 .input = {},
                 .attn_in = {},
                 .attn_out = {},
                 .rows_q = rows(q),
                 .rows_k = rows(k),
                 .rows_v = rows(v)});
      out.end({});
      if (until >= 0 && first + n >= until) return out.settle();
    }
    out.sequence_done(0);
    out.close();
  }
};

}  // namespace kvgrind::tests
