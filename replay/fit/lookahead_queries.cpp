// Static lookahead: for each query head n vectors before rotation that, set behind any context, attend to it as the
// queries after the context do.
//   want   mean over the queries after the context of their attention to the context, normalised over it
//   guess  mean softmax over the context of the n vectors, rotated to positions S, S + 1, …
//   fit    Σ over prompts of KL(want ‖ guess) by Adam from recorded queries after the contexts (--vectors, --epochs)
//   out    "query" [L, Hq, n, D]; error = mean KL over heads and held-out prompts, nats
//   source: arXiv 2603.10899 (the loss); deviations: free vectors instead of trained tokens with adapters
#include "replay/fit/lookahead_queries.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/parallel.h"
#include "kernels/rope/rope.h"

namespace kvgrind::replay {

double divergence(const Eigen::VectorXd& want, const Eigen::VectorXd& guess) {
  double out = 0;
  for (Eigen::Index j = 0; j < want.size(); ++j)
    if (want(j) > 0) out += want(j) * std::log(want(j) / std::max(guess(j), 1e-30));
  return out;
}

namespace {

Eigen::MatrixXd softmax_rows(const Rows& q, const Rows& k, double scale) {
  Eigen::MatrixXd p = (q * k.transpose()).cast<double>() * scale;
  for (Eigen::Index i = 0; i < p.rows(); ++i) {
    p.row(i) = (p.row(i).array() - p.row(i).maxCoeff()).exp().matrix();
    p.row(i) /= p.row(i).sum();
  }
  return p;
}

}  // namespace

Eigen::VectorXd mean_softmax(const Rows& q, const Rows& k, double scale) {
  return softmax_rows(q, k, scale).colwise().mean().transpose();
}

// Of −Σ want log guess with guess = mean p: by logit (i, j) it is −p_ij (r_j − Σ p_i r) / n, r = want / guess.
Eigen::MatrixXd divergence_slope(const Rows& q, const Rows& k, double scale, const Eigen::VectorXd& want) {
  const Eigen::MatrixXd p = softmax_rows(q, k, scale);
  const Eigen::VectorXd guess = p.colwise().mean().transpose();
  const Eigen::VectorXd ratio = (want.array() / guess.array().max(1e-30)).matrix();
  const Eigen::VectorXd mean = p * ratio;
  Eigen::MatrixXd z(p.rows(), p.cols());
  for (Eigen::Index i = 0; i < p.rows(); ++i)
    z.row(i) = -(p.row(i).array() * (ratio.transpose().array() - mean(i))).matrix() / static_cast<double>(p.rows());
  return scale * z * k.cast<double>();
}

namespace {

struct Prompt {
  Rows k;
  Eigen::VectorXd want;
  std::int64_t moment = 0;
};

// Rotation at positions S, S + 1, …, and its inverse for slopes.
Rows turned(const ModelCard& card, std::int64_t layer, std::int64_t first, Rows x, bool back) {
  std::vector<std::int64_t> position(static_cast<std::size_t>(x.rows()));
  std::iota(position.begin(), position.end(), first);
  const auto& set = card.rope[static_cast<std::size_t>(card.layer[static_cast<std::size_t>(layer)].rope_set)];
  const View<float, 3> view(x.data(), {x.rows(), 1, x.cols()});
  back ? kernels::rope_undo(set, position, view) : kernels::rope_apply(set, position, view);
  return x;
}

std::vector<Prompt> prompts_of(const std::vector<FitSequence>& sequences, const ModelCard& card, std::int64_t layer,
                               std::int64_t head) {
  std::vector<Prompt> out;
  for (const FitSequence& sequence : sequences) {
    const auto [begin, end] = sequence.future();
    if (begin >= end) continue;
    const Rows k = sequence.keys(layer, head / card.group());
    const Rows p = causal_attention(card, layer, sequence.queries(layer, head, begin, end - begin), begin, k);
    Eigen::VectorXd want = p.leftCols(sequence.moment).cast<double>().colwise().sum().transpose();
    if (!(want.sum() > 0)) continue;
    want /= want.sum();
    out.push_back({k.topRows(sequence.moment), std::move(want), sequence.moment});
  }
  return out;
}

double mean_divergence(const std::vector<Prompt>& prompts, const ModelCard& card, std::int64_t layer, const Rows& q) {
  double sum = 0;
  for (const Prompt& prompt : prompts)
    sum += divergence(prompt.want, mean_softmax(turned(card, layer, prompt.moment, q, false), prompt.k,
                                                static_cast<double>(card.scale)));
  return prompts.empty() ? 0 : sum / static_cast<double>(prompts.size());
}

// Recorded queries after the contexts, one prompt after the other.
Rows first_guess(const std::vector<FitSequence>& sequences, std::int64_t layer, std::int64_t head, std::int64_t n,
                 std::int64_t dim) {
  Rows out = Rows::Zero(n, dim);
  for (std::int64_t i = 0; i < n; ++i) {
    const FitSequence& sequence = sequences[static_cast<std::size_t>(i) % sequences.size()];
    const auto [begin, end] = sequence.future();
    if (begin >= end) continue;
    const std::int64_t at = begin + (i / static_cast<std::int64_t>(sequences.size())) % (end - begin);
    out.row(i) = sequence.unrotated(layer, at, sequence.queries(layer, head, at, 1));
  }
  return out;
}

}  // namespace

void fit_lookahead_queries(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  const std::int64_t n = split.request.vectors, dim = card.head_dim, heads = card.layers * card.query_heads;
  CalibrationTensor& tensor = out.tensors["query"];
  tensor.shape = {card.layers, card.query_heads, n, dim};
  tensor.values.resize(static_cast<std::size_t>(heads * n * dim));
  std::vector<double> start(static_cast<std::size_t>(heads)), fitted(start), held(start);
  parallel_for(heads, [&](std::int64_t at) {
    const std::int64_t l = at / card.query_heads, h = at % card.query_heads;
    const std::vector<Prompt> prompts = prompts_of(split.fitted, card, l, h);
    Rows q = first_guess(split.fitted, l, h, n, dim);
    start[static_cast<std::size_t>(at)] = mean_divergence(prompts, card, l, q);
    Eigen::MatrixXd m = Eigen::MatrixXd::Zero(n, dim), v = m;
    const double rate = 0.03 * std::max(1e-3, static_cast<double>(q.norm()) / std::sqrt(static_cast<double>(n * dim)));
    for (std::int64_t epoch = 1; epoch <= split.request.epochs; ++epoch) {
      Eigen::MatrixXd slope = Eigen::MatrixXd::Zero(n, dim);
      for (const Prompt& prompt : prompts) {
        const Rows turned_q = turned(card, l, prompt.moment, q, false);
        const Rows part =
            divergence_slope(turned_q, prompt.k, static_cast<double>(card.scale), prompt.want).cast<float>();
        slope += turned(card, l, prompt.moment, part, true).cast<double>() / static_cast<double>(prompts.size());
      }
      m = 0.9 * m + 0.1 * slope;
      v = 0.99 * v + 0.01 * slope.cwiseAbs2();
      const double t = static_cast<double>(epoch);
      const Eigen::ArrayXXd step =
          (m.array() / (1 - std::pow(0.9, t))) / ((v.array() / (1 - std::pow(0.99, t))).sqrt() + 1e-12);
      q -= (rate * step).matrix().cast<float>();
    }
    fitted[static_cast<std::size_t>(at)] = mean_divergence(prompts, card, l, q);
    held[static_cast<std::size_t>(at)] = mean_divergence(prompts_of(split.held_out, card, l, h), card, l, q);
    std::copy_n(q.data(), n * dim, tensor.values.begin() + at * n * dim);
  });
  const auto mean = [&](const std::vector<double>& x) {
    return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(heads);
  };
  out.numbers["first_error"] = mean(start);
  out.numbers["fitted_error"] = mean(fitted);
  out.numbers["held_out_error"] = mean(held);
}

}  // namespace kvgrind::replay
