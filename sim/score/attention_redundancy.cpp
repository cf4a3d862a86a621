// R-KV: attention of the last queries, less the redundancy of a key among all keys.
//   attention  logits of the window's queries, max over the group's query heads, softmax over the slots before the
//              window, mean over the queries, max-pooled
//   redundancy C = cosine of all keys with each other, 0 with itself; in each row the newest slot with C > threshold is
//              set to 0 (it is spared; slot 0 where there is none); r = softmax over slots of the mean over rows
//   out  s [slots] = λ · attention − (1 − λ) · r; the window = +inf
//   source: arXiv 2505.24133; Zefan-Cai/R-KV rkv/compression/r1_kv.py
#include <Eigen/Core>

#include "kernels/pool/pool.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

std::vector<double> redundancy(const GroupSlots& slots, float threshold) {
  const std::int64_t n = slots.size(), dim = slots.head_dim;
  Rows k = Eigen::Map<const Rows>(slots.k.data(), n, dim);
  k.array().colwise() /= k.rowwise().norm().cwiseMax(1e-12f).array();
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(n);
  constexpr std::int64_t block = 256;
  for (std::int64_t first = 0; first < n; first += block) {
    const std::int64_t rows = std::min(block, n - first);
    Rows c = k.middleRows(first, rows) * k.transpose();
    for (std::int64_t i = 0; i < rows; ++i) {
      c(i, first + i) = 0;
      std::int64_t spared = n - 1;
      while (spared > 0 && !(c(i, spared) > threshold)) --spared;
      c(i, spared) = 0;
    }
    sum += c.colwise().sum().transpose().cast<double>();
  }
  std::vector<double> out;
  double total = 0;
  const double top = n > 0 ? sum.maxCoeff() : 0.0;
  for (std::int64_t j = 0; j < n; ++j) total += out.emplace_back(std::exp((sum(j) - top) / static_cast<double>(n)));
  for (double& r : out) r /= total;
  return out;
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens;
  const std::int64_t window = std::min(context.params.integer("window"), tokens);
  const std::size_t past = slots_below(slots, tokens - window);
  std::fill(out.s.begin() + static_cast<std::ptrdiff_t>(past), out.s.end(), always_kept);
  if (past == 0) return;
  Array<double, 2> logits({window, static_cast<std::int64_t>(past)});
  std::fill_n(logits.data(), logits.size(), -1e300);
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    std::vector<float> lse;
    const Array<float, 2> p = context.attention(context.first_query_head() + h, tokens - window, window, &lse);
    for (std::int64_t i = 0; i < window; ++i)
      for (std::int64_t j = 0; j < static_cast<std::int64_t>(past); ++j)
        if (p(i, j) > 0)
          logits(i, j) = std::max(logits(i, j), std::log(static_cast<double>(p(i, j))) +
                                                    static_cast<double>(lse[static_cast<std::size_t>(i)]));
  }
  std::vector<float> mean(past), pooled(past);
  for (std::int64_t i = 0; i < window; ++i) {
    double top = -1e300, total = 0;
    for (std::size_t j = 0; j < past; ++j) top = std::max(top, logits(i, static_cast<std::int64_t>(j)));
    if (top <= -1e300) continue;  // sees nothing of the past (a windowed layer)
    for (std::size_t j = 0; j < past; ++j) total += std::exp(logits(i, static_cast<std::int64_t>(j)) - top);
    for (std::size_t j = 0; j < past; ++j)
      mean[j] += static_cast<float>(std::exp(logits(i, static_cast<std::int64_t>(j)) - top) / total /
                                    static_cast<double>(window));
  }
  kernels::pool_max(mean, context.params.integer("pool"), pooled);
  const double lambda = context.params.number("lambda");
  const std::vector<double> r = redundancy(slots, static_cast<float>(context.params.number("threshold")));
  for (std::size_t j = 0; j < past; ++j)
    out.s[j] = static_cast<float>(lambda * static_cast<double>(pooled[j]) - (1 - lambda) * r[j]);
}

}  // namespace

extern const ScoreRow attention_redundancy;
const ScoreRow attention_redundancy = {
    .name = "attention_redundancy",
    .source = "arXiv 2505.24133; Zefan-Cai/R-KV",
    .help = "attention of the last queries less redundancy among keys",
    .params = {{"window", ParamType::integer, "8", "last queries that vote; always kept themselves", 1, 65536},
               {"pool", ParamType::integer, "7", "width of max pooling along tokens", 1, 1023, {}, true},
               {"lambda", ParamType::number, "0.07", "weight of attention; the rest is redundancy's", 0, 1},
               {"threshold", ParamType::number, "0.5", "cosine above which a key is a near-duplicate", -1, 1}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
