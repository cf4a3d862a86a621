// Attention that a token gets from both sides inside its chunk: no recency bias, no full matrix.
//   in   q of the slots' own positions (post-RoPE), keys and values of the slots
//   out  s [slots]: within consecutive chunks of slots, P = softmax over the chunk of q·k (unscaled, no causal mask),
//   mean
//        over the group's query heads of Σ_i P[i][j]; times ‖v_j‖ (vnorm); average pool over the sequence (zeros
//        outside)
//   a short last chunk counts as if filled up with empty rows: each of them adds 1/chunk to every column.
//   padding=kvpress: empty keys take exp(0) of a row's mass as well; mask: they take none source: arXiv 2507.08143;
//   vnchari/compactor-vllm compactor.py; NVIDIA/kvpress non_causal_attention_press.py
#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "kernels/pool/pool.h"
#include "sim/engine/pre_rope.h"
#include "sim/engine/reduce.h"

namespace kvgrind::sim::scores {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void add_chunk(const Eigen::Ref<const Rows>& q, const Eigen::Ref<const Rows>& k, std::int64_t chunk, bool empty_keys,
               double* column) {
  const Eigen::Index n = q.rows(), empty = chunk - n;
  const Eigen::MatrixXd z = (q * k.transpose()).cast<double>();
  Eigen::VectorXd sum = Eigen::VectorXd::Constant(n, static_cast<double>(empty) / static_cast<double>(chunk));
  for (Eigen::Index i = 0; i < n; ++i) {
    const bool more = empty_keys && empty > 0;
    const double top = more ? std::max(0.0, z.row(i).maxCoeff()) : z.row(i).maxCoeff();
    const Eigen::VectorXd p = (z.row(i).array() - top).exp().matrix().transpose();
    sum += p / (p.sum() + (more ? static_cast<double>(empty) * std::exp(-top) : 0.0));
  }
  for (Eigen::Index j = 0; j < n; ++j) column[j] += sum(j);
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t n = slots.size(), dim = slots.head_dim, chunk = context.params.integer("chunk");
  if (n == 0) return;
  const Eigen::Map<const Rows> k(slots.k.data(), n, dim);
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const Array<float, 2> queries = slot_queries(context, context.first_query_head() + h, false);
    const Eigen::Map<const Rows> q(queries.data(), n, dim);
    std::vector<double>& column = head.emplace_back(static_cast<std::size_t>(n), 0.0);
    for (std::int64_t begin = 0; begin < n; begin += chunk) {
      const std::int64_t count = std::min(chunk, n - begin);
      add_chunk(q.middleRows(begin, count), k.middleRows(begin, count), chunk,
                context.params.word("padding") == "kvpress", column.data() + begin);
    }
  }
  std::vector<float> joined = reduce_heads(head, context.params.word("reduce"));
  if (context.params.boolean("vnorm")) {
    const Eigen::VectorXf norm = Eigen::Map<const Rows>(slots.v.data(), n, dim).rowwise().norm();
    for (std::int64_t j = 0; j < n; ++j) joined[static_cast<std::size_t>(j)] *= norm(j);
  }
  kernels::pool_avg(joined, context.params.integer("pool"), out.s);
}

}  // namespace

extern const ScoreRow noncausal_attention;
const ScoreRow noncausal_attention = {
    .name = "noncausal_attention",
    .source = "arXiv 2507.08143; NVIDIA/kvpress non_causal_attention_press.py",
    .help = "attention from both sides within chunks",
    .params = {{"chunk", ParamType::integer, "256", "slots of a chunk", 1, 1e6},
               {"vnorm", ParamType::boolean, "on", "weigh by the norm of the value"},
               {"pool", ParamType::integer, "3", "width of pooling along tokens; 1 = none", 1, 1023, {}, true},
               {"padding",
                ParamType::word,
                "kvpress",
                "what fills a short last chunk: keys at logit 0, or none",
                -1e300,
                1e300,
                {"kvpress", "mask"}},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
