// A recording made up by seed, in memory: K, V and Q with sinks, neighbours and a few strong look-ups, W_O, norms;
// LSE, column sums and query statistics computed from them with the reference kernel.
#pragma once
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>

#include "core/hash.h"
#include "kernels/attention/attention.h"
#include "kernels/rope/rope.h"
#include "replay/open_loop/recorded_run.h"

namespace kvgrind::tests {

struct SyntheticOptions {
  std::uint64_t seed = 1;
  std::int64_t layers = 2, query_heads = 4, kv_heads = 2, head_dim = 16, hidden = 24;
  std::int64_t window = 0;  // of every second layer
  std::int64_t context = 120, question = 14, answer = 18;
  std::int64_t contexts = 2, questions = 2;  // sequences: each context, then its forks
  bool segments = true;
  bool projection = true, norms = true;
  std::int64_t recorded_every = 1;  // queries of the tail recorded: every n-th position
  bool everything = false;          // images and sentences as spans, and passes over the context once more
};

class SyntheticRun final : public replay::RecordedRun {
 public:
  explicit SyntheticRun(const SyntheticOptions& options) : options_(options) {
    card_.family = "synthetic";
    card_.layers = options.layers;
    card_.query_heads = options.query_heads;
    card_.kv_heads = options.kv_heads;
    card_.head_dim = options.head_dim;
    card_.hidden = options.hidden;
    card_.max_positions = 4096;
    card_.scale = 1.0f / std::sqrt(static_cast<float>(options.head_dim));
    RopeSet rope;
    for (std::int64_t m = 0; m < options.head_dim / 2; ++m)
      rope.inv_freq.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(m) / static_cast<float>(options.head_dim)));
    card_.rope = {rope};
    for (std::int64_t l = 0; l < options.layers; ++l) card_.layer.push_back({l % 2 == 1 ? options.window : 0, 0});
    for (std::int64_t c = 0; c < options.contexts; ++c) {
      const auto parent = static_cast<std::int64_t>(infos_.size());
      add(-1, options.seed * 1000 + static_cast<std::uint64_t>(c), 0);
      for (std::int64_t q = 0; q < options.questions; ++q)
        add(parent, options.seed * 1000 + static_cast<std::uint64_t>(c),
            options.seed * 77 + static_cast<std::uint64_t>(q) + 1);
    }
    std::mt19937_64 rng(options.seed + 5);
    std::normal_distribution<float> normal;
    for (std::int64_t l = 0; l < options.layers; ++l) {
      projections_.emplace_back(Array<float, 2>({options.hidden, options.query_heads * options.head_dim}));
      for (std::int64_t i = 0; i < projections_.back().size(); ++i) projections_.back().data()[i] = 0.3f * normal(rng);
    }
  }

  const ModelCard& card() const override { return card_; }
  std::string hash() const override { return hex(hash_text("synthetic " + std::to_string(options_.seed))); }
  const std::vector<traces::SequenceInfo>& sequences() const override { return infos_; }
  std::vector<std::int32_t> tokens(std::int64_t s) const override {
    return std::vector<std::int32_t>(static_cast<std::size_t>(infos_[static_cast<std::size_t>(s)].tokens), 7);
  }
  Array<float, 2> keys(std::int64_t s, std::int64_t layer, std::int64_t head) const override {
    return data(s).k[static_cast<std::size_t>(layer * options_.kv_heads + head)];
  }
  Array<float, 2> values(std::int64_t s, std::int64_t layer, std::int64_t head) const override {
    return data(s).v[static_cast<std::size_t>(layer * options_.kv_heads + head)];
  }
  traces::RecordedQueries queries(std::int64_t s, std::int64_t layer, std::int64_t head) const override {
    const Array<float, 2>& all = data(s).q[static_cast<std::size_t>(layer * options_.query_heads + head)];
    const std::int64_t dim = options_.head_dim;
    traces::RecordedQueries out;
    std::vector<float> rows;
    for (std::int64_t p = 0; p < all.extent(0); ++p) {
      if (p >= options_.context && (p - options_.context) % options_.recorded_every != 0) continue;
      out.position.push_back(p);
      rows.insert(rows.end(), all.data() + p * dim, all.data() + (p + 1) * dim);
    }
    out.q = Array<float, 2>({static_cast<std::int64_t>(out.position.size()), dim});
    std::copy(rows.begin(), rows.end(), out.q.data());
    return out;
  }
  Array<float, 2> lse(std::int64_t s, std::int64_t layer) const override {
    return data(s).lse[static_cast<std::size_t>(layer)];
  }
  std::optional<Array<float, 2>> column_sums(std::int64_t s, std::int64_t layer, std::int64_t segment) const override {
    const auto& info = infos_[static_cast<std::size_t>(s)];
    Segment range{Role::context, 0, info.tokens};
    if (segment >= 0) range = info.segments.at(static_cast<std::size_t>(segment));
    Array<float, 2> out({options_.query_heads, info.tokens});
    for (std::int64_t h = 0; h < options_.query_heads; ++h) {
      const Array<float, 2> p = attention(s, layer, h);
      for (std::int64_t i = range.begin; i < range.end; ++i)
        for (std::int64_t j = 0; j < info.tokens; ++j) out(h, j) += p(i, j);
    }
    return out;
  }
  std::vector<traces::QueryStatisticsRow> query_statistics(std::int64_t s, std::int64_t layer,
                                                           std::int64_t head) const override {
    std::vector<traces::QueryStatisticsRow> out;
    const std::int64_t dim = options_.head_dim, half = dim / 2;
    for (const Segment& segment : infos_[static_cast<std::size_t>(s)].segments) {
      traces::QueryStatisticsRow row;
      row.begin = std::max<std::int64_t>(4, segment.begin);
      row.end = segment.end;
      row.n = row.end - row.begin;
      row.mean.resize(static_cast<std::size_t>(dim));
      row.mean_modulus.resize(static_cast<std::size_t>(half));
      row.second_moment = Array<float, 2>({dim, dim});
      Array<float, 2> q = data(s).q[static_cast<std::size_t>(layer * options_.query_heads + head)];
      std::vector<std::int64_t> position(static_cast<std::size_t>(q.extent(0)));
      std::iota(position.begin(), position.end(), 0);
      kernels::rope_undo(card_.rope[0], position, View<float, 3>(q.data(), {q.extent(0), 1, dim}));
      const float n = static_cast<float>(row.n);
      for (std::int64_t t = row.begin; t < row.end; ++t) {
        for (std::int64_t a = 0; a < dim; ++a) {
          row.mean[static_cast<std::size_t>(a)] += q(t, a) / n;
          for (std::int64_t b = 0; b < dim; ++b) row.second_moment(a, b) += q(t, a) * q(t, b) / n;
        }
        for (std::int64_t m = 0; m < half; ++m)
          row.mean_modulus[static_cast<std::size_t>(m)] += std::hypot(q(t, m), q(t, m + half)) / n;
      }
      out.push_back(std::move(row));
    }
    return out;
  }
  // From sure to unlikely; the last token's successor is unknown.
  std::vector<float> nll(std::int64_t s) const override {
    std::vector<float> out(static_cast<std::size_t>(infos_[static_cast<std::size_t>(s)].tokens));
    for (std::size_t t = 0; t < out.size(); ++t) out[t] = 0.001f + static_cast<float>(t % 7);
    if (!out.empty()) out.back() = std::numeric_limits<float>::quiet_NaN();
    return out;
  }
  std::vector<float> hidden_norm(std::int64_t s, std::int64_t layer) const override {
    if (!options_.norms) return {};
    std::vector<float> out(static_cast<std::size_t>(infos_[static_cast<std::size_t>(s)].tokens));
    for (std::size_t t = 0; t < out.size(); ++t)
      out[t] = 3.0f + static_cast<float>(layer) + 0.01f * static_cast<float>(t);
    return out;
  }
  std::vector<float> attention_input_norm(std::int64_t s, std::int64_t layer) const override {
    return hidden_norm(s, layer);
  }
  // Two parts repeated, one pass of rereading, two episodes: shares as if drawn.
  std::vector<ProbeColumns> probes(std::int64_t s, std::int64_t layer, std::int64_t head,
                                   ProbeKind kind) const override {
    std::vector<ProbeColumns> out;
    if (!options_.everything) return out;
    const std::int64_t parts = kind == ProbeKind::repeat ? 2 : 1, passes = kind == ProbeKind::reread ? 1 : 2;
    for (std::int64_t number = 0; number < passes; ++number) {
      ProbeColumns& one = out.emplace_back();
      one.number = number;
      one.begin = parts == 1 ? 0 : number * options_.context / parts;
      one.end = parts == 1 ? options_.context : (number + 1) * options_.context / parts;
      const traces::SequenceInfo& info = infos_[static_cast<std::size_t>(s)];
      std::mt19937_64 rng(static_cast<std::uint64_t>(
          (((info.parent < 0 ? s : info.parent) * 64 + layer) * 64 + head) * 64 + number * 8 + static_cast<int>(kind)));
      std::uniform_real_distribution<float> draw(1e-4f, 1.0f);
      for (int i = 0; i < probe_statistics; ++i)
        if (measured_statistics(kind) >> i & 1u)
          for (std::int64_t t = one.begin; t < one.end; ++t)
            one.columns[static_cast<std::size_t>(i)].push_back(draw(rng));
    }
    return out;
  }

  // Softmax of all queries of a head over the full cache, [T, T], by the reference kernel.
  Array<float, 2> attention(std::int64_t s, std::int64_t layer, std::int64_t head) const {
    const auto& d = data(s);
    const auto& q = d.q[static_cast<std::size_t>(layer * options_.query_heads + head)];
    const auto kv = static_cast<std::size_t>(layer * options_.kv_heads + head / card_.group());
    const std::int64_t n = q.extent(0);
    Array<float, 2> out({n, n});
    std::vector<std::int64_t> position(static_cast<std::size_t>(n));
    std::iota(position.begin(), position.end(), 0);
    kernels::AttentionParams params;
    params.q = q;
    params.q_position = position;
    params.k = d.k[kv];
    params.v = d.v[kv];
    params.k_position = position;
    params.scale = card_.scale;
    params.window = card_.layer[static_cast<std::size_t>(layer)].window;
    params.probabilities = [&](std::int64_t first, View<const float, 2> rows) {
      for (std::int64_t i = 0; i < rows.extent(0); ++i)
        for (std::int64_t j = 0; j < n; ++j) out(first + i, j) = rows(i, j);
    };
    kernels::attention_ref(params);
    return out;
  }
  const Array<float, 2>& projection(std::int64_t layer) const { return projections_[static_cast<std::size_t>(layer)]; }

 protected:
  std::optional<Array<float, 2>> read_output_projection(std::int64_t layer) const override {
    if (!options_.projection) return std::nullopt;
    return projections_[static_cast<std::size_t>(layer)];
  }

 private:
  struct Data {
    std::vector<Array<float, 2>> k, v, q, lse;
  };
  const Data& data(std::int64_t s) const { return data_.at(s); }

  void add(std::int64_t parent, std::uint64_t context_seed, std::uint64_t tail_seed) {
    traces::SequenceInfo info;
    info.id = static_cast<std::int64_t>(infos_.size());
    info.parent = parent;
    const std::int64_t context = options_.context;
    info.tokens = parent < 0 ? context : context + options_.question + options_.answer;
    info.fork_at = parent < 0 ? 0 : context;
    info.own_rows = info.tokens - info.fork_at;
    if (options_.segments) {
      info.segments = {{Role::context, 0, context}};
      if (parent >= 0) {
        info.segments.push_back({Role::question, context, context + options_.question});
        info.segments.push_back({Role::answer, context + options_.question, info.tokens});
      }
      info.spans = {{"needle", context / 3, context / 3 + 6, "n0"}};
      if (options_.everything) {
        for (const std::int64_t at : {4, 16}) info.spans.push_back({"image", at, at + 9, ""});
        for (std::int64_t t = 0; t < context; t += 11)
          info.spans.push_back({"sentence", t, std::min(t + 11, context), ""});
      }
    }
    Data data;
    for (std::int64_t l = 0; l < options_.layers; ++l) {
      for (std::int64_t h = 0; h < options_.kv_heads; ++h) {
        auto make = [&](std::uint64_t salt, float size) {
          Array<float, 2> out({info.tokens, options_.head_dim});
          for (std::int64_t t = 0; t < info.tokens; ++t) {
            const std::uint64_t own = t < context ? context_seed : tail_seed + 1000003 * context_seed;
            std::mt19937_64 rng(own * 7919 + static_cast<std::uint64_t>(t) * 104729 + salt * 31 +
                                static_cast<std::uint64_t>(l * 16 + h) * 1009);
            std::normal_distribution<float> normal;
            for (std::int64_t d = 0; d < options_.head_dim; ++d) out(t, d) = size * normal(rng);
          }
          return out;
        };
        Array<float, 2> k = make(1, 1.0f), v = make(2, 1.0f);
        for (std::int64_t t = 0; t < 2; ++t)
          for (std::int64_t d = 0; d < options_.head_dim; ++d) k(t, d) = 2.0f * static_cast<float>(d % 2);
        std::vector<Array<float, 2>> own_q;
        for (std::int64_t g = 0; g < card_.group(); ++g) {
          Array<float, 2> q = make(10 + static_cast<std::uint64_t>(g), 1.4f);
          for (std::int64_t t = context; t < info.tokens; t += 3) {
            const std::int64_t key = context / 3 + t % 6;
            for (std::int64_t d = 0; d < options_.head_dim; ++d) q(t, d) = 2.5f * k(key, d) + 0.3f * q(t, d);
          }
          for (std::int64_t t = 0; t < info.tokens; ++t)
            for (std::int64_t d = 1; d < options_.head_dim; d += 2) q(t, d) += 0.4f;
          own_q.push_back(std::move(q));
        }
        data.k.push_back(std::move(k));
        data.v.push_back(std::move(v));
        for (auto& q : own_q) data.q.push_back(std::move(q));
      }
    }
    infos_.push_back(std::move(info));
    data_.emplace(infos_.back().id, std::move(data));
    add_lse(infos_.back().id);
  }

  void add_lse(std::int64_t s) {
    Data& d = data_.at(s);
    const std::int64_t n = infos_[static_cast<std::size_t>(s)].tokens;
    for (std::int64_t l = 0; l < options_.layers; ++l) {
      Array<float, 2> out({n, options_.query_heads});
      for (std::int64_t h = 0; h < options_.query_heads; ++h) {
        const auto& q = d.q[static_cast<std::size_t>(l * options_.query_heads + h)];
        const auto& k = d.k[static_cast<std::size_t>(l * options_.kv_heads + h / card_.group())];
        const std::int64_t window = card_.layer[static_cast<std::size_t>(l)].window;
        for (std::int64_t i = 0; i < n; ++i) {
          double sum = 0;
          for (std::int64_t j = window > 0 ? std::max<std::int64_t>(0, i - window + 1) : 0; j <= i; ++j) {
            double dot = 0;
            for (std::int64_t x = 0; x < options_.head_dim; ++x) dot += static_cast<double>(q(i, x)) * k(j, x);
            sum += std::exp(static_cast<double>(card_.scale) * dot);
          }
          out(i, h) = static_cast<float>(std::log(sum));
        }
      }
      d.lse.push_back(std::move(out));
    }
  }

  SyntheticOptions options_;
  ModelCard card_;
  std::vector<traces::SequenceInfo> infos_;
  std::map<std::int64_t, Data> data_;
  std::vector<Array<float, 2>> projections_;
};

inline std::shared_ptr<const SyntheticRun> synthetic_run(const SyntheticOptions& options = {}) {
  return std::make_shared<const SyntheticRun>(options);
}

}  // namespace kvgrind::tests
