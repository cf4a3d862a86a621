// GUI-KV: attention of the last queries, raised where the newest screenshot's hidden states stand out; and what older
// screenshots' keys add to the newest one's.
//   in   A: rows of the last w queries, summed, pooled (average); spans "image"; hidden norms; keys
//   out  s [slots]: pooled attention; in the last image += alpha · softmax(z / temperature), z the standardised norms
//        (unbiased, + 1e-8); joined over the group's query heads; the window = +inf
//        column "residual": for tokens of earlier images ‖k − Q Qᵀ k‖, Q an orthonormal basis of the last image's first
//        min(rank, |I|, D) keys; NaN elsewhere
//   source: arXiv 2510.00536; SalesforceAIResearch/GUI-KV gui_kv/gui_kv_utils.py
#include <Eigen/Dense>

#include "kernels/pool/pool.h"
#include "sim/engine/reduce.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

std::vector<double> softmax_of_standardised(const std::vector<double>& norm, double temperature) {
  const auto n = static_cast<double>(norm.size());
  double mean = 0, squares = 0, total = 0;
  for (const double x : norm) mean += x / n;
  for (const double x : norm) squares += (x - mean) * (x - mean);
  const double deviation = n > 1 ? std::sqrt(squares / (n - 1)) : 0.0;
  std::vector<double> out;
  for (const double x : norm) total += out.emplace_back(std::exp((x - mean) / (deviation + 1e-8) / temperature));
  for (double& x : out) x /= total;
  return out;
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens, dim = slots.head_dim;
  const std::int64_t window = std::min(context.params.integer("window"), tokens);
  const std::size_t past = slots_below(slots, tokens - window);
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::vector<double> sum = context.attention_sum(context.first_query_head() + h, tokens - window, window);
    std::vector<float> value(sum.begin(), sum.begin() + static_cast<std::ptrdiff_t>(past)), pooled(past);
    if (past > 0) kernels::pool_avg(value, context.params.integer("pool"), pooled);
    head.emplace_back(pooled.begin(), pooled.end());
  }
  const std::vector<float> joined = reduce_heads(head, context.params.word("reduce"));
  std::copy(joined.begin(), joined.end(), out.s.begin());
  std::fill(out.s.begin() + static_cast<std::ptrdiff_t>(past), out.s.end(), always_kept);
  std::vector<float> residual(out.s.size(), std::numeric_limits<float>::quiet_NaN());

  std::vector<Span> images;
  for (const Span& span : context.signals.spans())
    if (span.kind == "image" && span.end <= tokens) images.push_back(span);
  std::sort(images.begin(), images.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  if (!images.empty()) {
    const std::size_t begin = slots_below(slots, images.back().begin), end = slots_below(slots, images.back().end);
    const std::span<const float> norms = context.signals.hidden_norm(context.layer);
    std::vector<double> norm;
    for (std::size_t j = begin; j < end; ++j) norm.push_back(norms[static_cast<std::size_t>(slots.position[j])]);
    const std::vector<double> lift = softmax_of_standardised(norm, context.params.number("temperature"));
    for (std::size_t j = begin; j < end; ++j)
      out.s[j] += static_cast<float>(context.params.number("alpha") * lift[j - begin]);
    const auto rank = std::min({context.params.integer("rank"), static_cast<std::int64_t>(end - begin), dim});
    const Eigen::Map<const Rows> k(slots.k.data(), slots.size(), dim);
    if (rank > 0 && images.size() > 1) {
      const Eigen::MatrixXf first = k.middleRows(static_cast<Eigen::Index>(begin), rank).transpose();
      const Eigen::MatrixXf q =
          Eigen::HouseholderQR<Eigen::MatrixXf>(first).householderQ() * Eigen::MatrixXf::Identity(dim, rank);
      for (std::size_t i = 0; i + 1 < images.size(); ++i)
        for (std::size_t j = slots_below(slots, images[i].begin); j < slots_below(slots, images[i].end); ++j) {
          const Eigen::VectorXf key = k.row(static_cast<Eigen::Index>(j)).transpose();
          residual[j] = (key - q * (q.transpose() * key)).norm();
        }
    }
  }
  out.extra["residual"] = std::move(residual);
}

}  // namespace

extern const ScoreRow image_salience;
const ScoreRow image_salience = {
    .name = "image_salience",
    .source = "arXiv 2510.00536; SalesforceAIResearch/GUI-KV",
    .help = "attention raised in the newest image, and what older images' keys add to it",
    .params = {{"window", ParamType::integer, "8", "last queries that vote; always kept themselves", 1, 65536},
               {"pool", ParamType::integer, "5", "width of average pooling along tokens", 1, 1023, {}, true},
               {"alpha", ParamType::number, "2", "weight of hidden norms in the newest image", 0, 1e6},
               {"temperature", ParamType::number, "3.5", "of the softmax over standardised norms", 1e-6, 1e6},
               {"rank", ParamType::integer, "32", "first keys of the newest image that span its subspace", 1, 4096},
               {"reduce", ParamType::word, "none", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries, Signal::spans, Signal::hidden_norm},
    .score = score,
    .gives = {"residual"},
};

}  // namespace kvgrind::sim::scores
