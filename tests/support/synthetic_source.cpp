#include "tests/support/synthetic_source.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "kernels/attention/attention.h"
#include "kernels/rope/rope.h"

namespace kvgrind::tests {

SyntheticSource::SyntheticSource(SyntheticData data)
    : data_(std::move(data)), heads_(static_cast<std::size_t>(data_.card.layers * data_.card.query_heads)) {
  const std::int64_t width = data_.card.query_heads * data_.card.head_dim;
  for (std::int64_t l = static_cast<std::int64_t>(data_.projection.size()); l < data_.card.layers; ++l) {
    Array<float, 2>& identity = data_.projection.emplace_back(Array<float, 2>::Extents{width, width});
    for (std::int64_t i = 0; i < width; ++i) identity(i, i) = 1.0f;
  }
}

const SyntheticSource::Head& SyntheticSource::head(std::int64_t layer, std::int64_t head) const {
  Head& out = heads_[at(layer, head)];
  std::call_once(out.once, [&] {
    const ModelCard& card = data_.card;
    std::vector<std::int64_t> position(static_cast<std::size_t>(tokens()));
    std::iota(position.begin(), position.end(), 0);
    const auto group = static_cast<std::size_t>(layer * card.kv_heads + head / card.group());
    out.p = Array<float, 2>({tokens(), tokens()});
    out.lse.resize(static_cast<std::size_t>(tokens()));
    kernels::AttentionParams params;
    params.q = data_.q[at(layer, head)];
    params.q_position = position;
    params.k = data_.k[group];
    params.v = data_.v[group];
    params.k_position = position;
    params.scale = card.scale;
    params.softcap = card.softcap;
    params.window = card.layer[static_cast<std::size_t>(layer)].window;
    params.lse = out.lse.data();
    params.probabilities = [&](std::int64_t first, View<const float, 2> rows) {
      for (std::int64_t i = 0; i < rows.extent(0); ++i)
        for (std::int64_t j = 0; j < tokens(); ++j) out.p(first + i, j) = rows(i, j);
    };
    kernels::attention_ref(params);
  });
  return out;
}

const Array<float, 2>& SyntheticSource::probabilities(std::int64_t layer, std::int64_t query_head) const {
  return head(layer, query_head).p;
}

Array<float, 2> SyntheticSource::queries(std::int64_t layer, std::int64_t head, std::int64_t first,
                                         std::int64_t n) const {
  assert(first >= 0 && first + n <= tokens());
  const Array<float, 2>& q = data_.q[at(layer, head)];
  Array<float, 2> out({n, q.extent(1)});
  std::copy_n(q.data() + first * q.extent(1), n * q.extent(1), out.data());
  return out;
}

std::vector<ProbeColumns> SyntheticSource::probes(std::int64_t layer, std::int64_t head, sim::Signal kind) const {
  if (given_probes) return given_probes(layer, head, kind);
  const std::int64_t context = probe_end > 0 ? probe_end : tokens(), n = std::min(probe_rows, tokens());
  const std::int64_t dim = data_.card.head_dim, passes = kind == sim::Signal::reread_probe ? 1 : 2;
  const Array<float, 2> q = queries(layer, head, tokens() - n, n);
  const Array<float, 2>& k = data_.k[static_cast<std::size_t>(layer * data_.card.kv_heads + head / data_.card.group())];
  const auto logit = [&](std::int64_t i, std::int64_t key) {  // keys from `context` on are the pass's own
    const std::int64_t row = key < context ? key : tokens() - n + key - context;
    double sum = 0;
    for (std::int64_t d = 0; d < dim; ++d) sum += static_cast<double>(q(i, d)) * static_cast<double>(k(row, d));
    return sum * static_cast<double>(data_.card.scale);
  };
  std::vector<ProbeColumns> out;
  for (std::int64_t pass = 0; pass < passes; ++pass) {
    ProbeColumns& one = out.emplace_back();
    one.number = pass;
    one.begin = pass * context / passes;
    one.end = (pass + 1) * context / passes;
    for (auto& column : one.columns) column.assign(static_cast<std::size_t>(one.end - one.begin), 0.0f);
    for (std::int64_t i = 0; i < n; ++i) {
      double row = 0, part = 0;
      for (std::int64_t key = 0; key <= context + i; ++key) {
        const double p = std::exp(logit(i, key));
        row += p;
        if (key < 4 || (key >= one.begin && key < one.end) || key >= context) part += p;
      }
      for (std::int64_t key = one.begin; key < one.end; ++key) {
        const double p = std::exp(logit(i, key)), norm = static_cast<double>(1 + i % 2);
        const double values[] = {p / part, p / part / norm, p / row, p / row / norm};
        for (std::size_t s = 0; s < 4; ++s) {
          float& to = one.columns[s][static_cast<std::size_t>(key - one.begin)];
          to = std::max(to, static_cast<float>(values[s]));
        }
        one.of(ProbeStatistic::row_mean)[static_cast<std::size_t>(key - one.begin)] +=
            static_cast<float>(p / row / static_cast<double>(n));
      }
    }
  }
  return out;
}

std::vector<float> SyntheticSource::column_sums(std::int64_t layer, std::int64_t query_head, std::int64_t until) const {
  const Array<float, 2>& p = probabilities(layer, query_head);
  std::vector<float> out;
  for (std::int64_t j = 0; j < until; ++j) {
    double sum = 0;
    for (std::int64_t i = 0; i < until; ++i) sum += static_cast<double>(p(i, j));
    out.push_back(static_cast<float>(sum));
  }
  return out;
}

sim::QueryStatistics SyntheticSource::query_statistics(std::int64_t layer, std::int64_t head, std::int64_t skip,
                                                       std::int64_t until) const {
  const std::int64_t n = std::max<std::int64_t>(0, until - skip), dim = data_.card.head_dim;
  Array<float, 2> q = queries(layer, head, n > 0 ? skip : 0, n);
  std::vector<std::int64_t> position(static_cast<std::size_t>(n));
  std::iota(position.begin(), position.end(), skip);
  const auto& set =
      data_.card.rope[static_cast<std::size_t>(data_.card.layer[static_cast<std::size_t>(layer)].rope_set)];
  kernels::rope_undo_ref(set, position, View<float, 3>(q.data(), {n, 1, dim}));
  sim::QueryStatistics out;
  out.n = n;
  out.mean.resize(static_cast<std::size_t>(dim));
  out.second_moment = Array<float, 2>({dim, dim});
  for (std::int64_t a = 0; a < dim && n > 0; ++a) {
    double mean = 0;
    for (std::int64_t t = 0; t < n; ++t) mean += static_cast<double>(q(t, a));
    out.mean[static_cast<std::size_t>(a)] = static_cast<float>(mean / static_cast<double>(n));
    for (std::int64_t b = 0; b < dim; ++b) {
      double moment = 0;
      for (std::int64_t t = 0; t < n; ++t) moment += static_cast<double>(q(t, a)) * static_cast<double>(q(t, b));
      out.second_moment(a, b) = static_cast<float>(moment / static_cast<double>(n));
    }
  }
  return out;
}

std::vector<float> SyntheticSource::log_sum_exp(std::int64_t layer, std::int64_t query_head, std::int64_t first,
                                                std::int64_t n) const {
  const auto begin = head(layer, query_head).lse.begin() + static_cast<std::ptrdiff_t>(first);
  return {begin, begin + static_cast<std::ptrdiff_t>(n)};
}

void SyntheticSource::feed(sim::CacheState& cache, std::int64_t first, std::int64_t n) const {
  const ModelCard& card = data_.card;
  for (std::int64_t layer = 0; layer < card.layers; ++layer) {
    Array<float, 3> k({n, card.kv_heads, card.head_dim}), v({n, card.kv_heads, card.head_dim});
    for (std::int64_t g = 0; g < card.kv_heads; ++g)
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t d = 0; d < card.head_dim; ++d) {
          k(i, g, d) = data_.k[static_cast<std::size_t>(layer * card.kv_heads + g)](first + i, d);
          v(i, g, d) = data_.v[static_cast<std::size_t>(layer * card.kv_heads + g)](first + i, d);
        }
    cache.append(layer, first, k, v);
  }
}

Array<float, 3> SyntheticSource::query_block(std::int64_t layer, std::int64_t first, std::int64_t n) const {
  const ModelCard& card = data_.card;
  Array<float, 3> q({n, card.query_heads, card.head_dim});
  for (std::int64_t h = 0; h < card.query_heads; ++h)
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t d = 0; d < card.head_dim; ++d) q(i, h, d) = data_.q[at(layer, h)](first + i, d);
  return q;
}

SyntheticData random_data(std::mt19937_64& rng, const SyntheticShape& shape) {
  SyntheticData out;
  out.tokens = shape.tokens;
  ModelCard& card = out.card;
  card.family = "synthetic";
  card.layers = shape.layers;
  card.query_heads = shape.query_heads;
  card.kv_heads = shape.kv_heads;
  card.head_dim = shape.head_dim;
  card.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  card.dtype = DType::bf16;
  card.layer.resize(static_cast<std::size_t>(shape.layers));
  card.layer.back().window = shape.window;
  RopeSet set;
  for (std::int64_t m = 0; m < shape.rotary_dim / 2; ++m)
    set.inv_freq.push_back(std::pow(100.0f, -2.0f * static_cast<float>(m) / static_cast<float>(shape.rotary_dim)));
  card.rope = {set};
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<Array<float, 2>>& list, std::int64_t heads, float outlier) {
    for (std::int64_t i = 0; i < shape.layers * heads; ++i) {
      Array<float, 2>& x = list.emplace_back(Array<float, 2>::Extents{shape.tokens, shape.head_dim});
      for (std::int64_t t = 0; t < shape.tokens; ++t)
        for (std::int64_t d = 0; d < shape.head_dim; ++d)
          x(t, d) = normal(rng) * (d == 1 ? outlier : 1.0f) + (t == 0 && d == 0 ? outlier : 0.0f);
    }
  };
  fill(out.q, shape.query_heads, 2.0f);
  fill(out.k, shape.kv_heads, 4.0f);
  fill(out.v, shape.kv_heads, 1.0f);
  out.segments = {{Role::context, 0, shape.tokens}};
  return out;
}

std::vector<std::vector<double>> t8_table(int head) {
  if (head == 0)
    return {{1},
            {.5, .5},
            {.5, .25, .25},
            {.4, .3, .2, .1},
            {.4, .1, .3, .1, .1},
            {.3, .1, .1, .2, .2, .1},
            {.3, .05, .05, .4, .1, .05, .05},
            {.2, .05, .05, .5, .05, .05, .05, .05}};
  return {{1},
          {.9, .1},
          {.8, .1, .1},
          {.7, .1, .1, .1},
          {.6, .1, .1, .1, .1},
          {.5, .1, .1, .1, .1, .1},
          {.2, .4, .1, .1, .1, .05, .05},
          {.2, .5, .05, .05, .05, .05, .05, .05}};
}

namespace {
constexpr float t8_k[8][2] = {{1, 0}, {0, 1}, {1, 1}, {2, 0}, {0, 2}, {-1, 0}, {1, -1}, {3, 4}};
constexpr float t8_v[8][2] = {{.1f, 0}, {1, 0}, {0, 1}, {2, 0}, {0, 3}, {1, 1}, {0, .5f}, {1, 2}};

SyntheticData t8(std::int64_t dim) {
  SyntheticData out;
  out.tokens = 8;
  out.card.layers = 1;
  out.card.query_heads = 2;
  out.card.kv_heads = 1;
  out.card.head_dim = dim;
  out.card.scale = 1.0f;
  out.card.layer.resize(1);
  out.card.rope.resize(1);
  out.q = {Array<float, 2>({8, dim}), Array<float, 2>({8, dim})};
  out.k = {Array<float, 2>({8, dim})};
  out.v = {Array<float, 2>({8, dim})};
  for (std::int64_t t = 0; t < 8; ++t)
    for (std::int64_t d = 0; d < 2; ++d) out.v[0](t, d) = t8_v[t][d];
  out.segments = {{Role::context, 0, 8}};
  return out;
}
}  // namespace

SyntheticData t8_attention() {
  SyntheticData out = t8(8);
  for (std::int64_t t = 0; t < 8; ++t) out.k[0](t, t) = 1.0f;
  for (int head = 0; head < 2; ++head) {
    const auto table = t8_table(head);
    for (std::size_t i = 0; i < table.size(); ++i)
      for (std::size_t j = 0; j < table[i].size(); ++j)
        out.q[static_cast<std::size_t>(head)](static_cast<std::int64_t>(i), static_cast<std::int64_t>(j)) =
            static_cast<float>(std::log(table[i][j]));
  }
  return out;
}

SyntheticData t8_geometry() {
  SyntheticData out = t8(2);
  for (std::int64_t t = 0; t < 8; ++t)
    for (std::int64_t d = 0; d < 2; ++d) out.k[0](t, d) = t8_k[t][d];
  return out;
}

std::vector<std::int64_t> EngineRun::kept(std::int64_t layer, std::int64_t group) const {
  return cache.group(layer, group).position;
}

EngineRun run_engine(std::string_view policy, const SyntheticSource& source, const EngineSetup& setup) {
  const sim::PolicyPtr bound =
      sim::with_calibrations(sim::bind_policy(policy), [&](const std::string& method, const std::string&) {
        return setup.calibration && setup.calibration->method == method ? setup.calibration
                                                                        : synthetic_calibration(method, source.card());
      });
  EngineRun out{sim::CacheState(source.card(), sim::cache_granularity(*bound)), {}, {}};
  sim::PolicyRun run({.policy = bound, .amount = setup.amount, .seed = setup.seed, .sequence = setup.sequence}, source,
                     out.cache);
  if (setup.on_plan) run.on_plan(setup.on_plan);
  const std::int64_t moment = setup.compress_at > 0 ? setup.compress_at : source.tokens();
  const std::int64_t chunk = setup.chunk > 0 ? setup.chunk : moment;
  const std::int64_t layers = source.card().layers;
  for (std::int64_t at = 0; at < moment; at += chunk) {
    const std::int64_t n = std::min(chunk, moment - at);
    source.feed(out.cache, at, n);
    for (std::int64_t layer = 0; layer < layers; ++layer) run.layer_done(layer, at, n);
    run.chunk_done(at, n);
  }
  run.segment_end(Role::context, moment, true);
  out.cache.ledger().check();
  for (std::int64_t at = moment; at < moment + setup.steps; ++at) {
    source.feed(out.cache, at, 1);
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      (void)run.read(layer, at, source.query_block(layer, at, 1));
      run.layer_done(layer, at, 1);
    }
    run.step_done(at);
    out.cache.ledger().check();
  }
  out.requested = run.requested();
  out.effective = run.effective();
  out.slots_called = run.slots_called();
  out.nan_scores = run.nan_scores();
  return out;
}

}  // namespace kvgrind::tests
