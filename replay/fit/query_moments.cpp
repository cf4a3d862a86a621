// Fits from moments of queries: Q-Filters' directions, TriAttention's centres.
#include <Eigen/Eigenvalues>

#include "replay/fit/fit_data.h"

namespace kvgrind::replay {
namespace {

struct Moments {
  Eigen::MatrixXd second;
  Eigen::VectorXd mean, modulus;
  double n = 0;
};

// Over every query of the sequences that was recorded from `skip` on, up to the first gap.
Moments moments_of(const std::vector<FitSequence>& sequences, const ModelCard& card, std::int64_t layer,
                   std::int64_t head, bool pre_rope, std::int64_t skip) {
  const std::int64_t dim = card.head_dim, half = dim / 2;
  Moments out{Eigen::MatrixXd::Zero(dim, dim), Eigen::VectorXd::Zero(dim), Eigen::VectorXd::Zero(half)};
  for (const FitSequence& sequence : sequences) {
    Rows q = sequence.queries(layer, head, skip, sequence.tokens - skip);
    if (pre_rope) q = sequence.unrotated(layer, skip, std::move(q));
    const Eigen::MatrixXd x = q.cast<double>();
    out.second += x.transpose() * x;
    out.mean += x.colwise().sum().transpose();
    for (std::int64_t m = 0; m < half; ++m)
      out.modulus(m) += (x.col(m).array().square() + x.col(m + half).array().square()).sqrt().sum();
    out.n += static_cast<double>(q.rows());
  }
  if (out.n > 0) {
    out.second /= out.n;
    out.mean /= out.n;
    out.modulus /= out.n;
  }
  return out;
}

}  // namespace

void fit_query_directions(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  CalibrationTensor& tensor = out.tensors["direction"];
  tensor.shape = {card.layers, card.kv_heads, card.head_dim};
  double fitted = 0, held = 0;
  for (std::int64_t l = 0; l < card.layers; ++l)
    for (std::int64_t g = 0; g < card.kv_heads; ++g) {
      Eigen::VectorXd mean = Eigen::VectorXd::Zero(card.head_dim);
      for (std::int64_t h = g * card.group(); h < (g + 1) * card.group(); ++h) {
        const Moments moments = moments_of(split.fitted, card, l, h, false, 0);
        const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(moments.second);
        Eigen::VectorXd v = solver.eigenvectors().col(card.head_dim - 1);
        if (v.dot(moments.mean) < 0) v = -v;
        mean += v / static_cast<double>(card.group());
        const Moments other = moments_of(split.held_out, card, l, h, false, 0);
        fitted += 1 - v.dot(moments.second * v) / moments.second.trace();
        held += 1 - v.dot(other.second * v) / other.second.trace();
      }
      for (std::int64_t d = 0; d < card.head_dim; ++d) tensor.values.push_back(static_cast<float>(mean(d)));
    }
  const auto heads = static_cast<double>(card.layers * card.query_heads);
  out.numbers["fitted_error"] = fitted / heads;
  out.numbers["held_out_error"] = held / heads;
}

void fit_query_gaussians(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  const std::int64_t dim = card.head_dim;
  CalibrationTensor& mean = out.tensors["mean"];
  CalibrationTensor& covariance = out.tensors["covariance"];
  mean.shape = {card.layers, card.query_heads, dim};
  covariance.shape = {card.layers, card.query_heads, dim, dim};
  double held = 0;
  for (std::int64_t l = 0; l < card.layers; ++l)
    for (std::int64_t h = 0; h < card.query_heads; ++h) {
      const Moments moments = moments_of(split.fitted, card, l, h, true, 4);
      const Moments other = moments_of(split.held_out, card, l, h, true, 4);
      held += (moments.mean - other.mean).norm() / std::max(other.mean.norm(), 1e-12);
      const Eigen::MatrixXd sigma =
          (moments.second - moments.mean * moments.mean.transpose()) * (moments.n / std::max(moments.n - 1, 1.0));
      for (std::int64_t d = 0; d < dim; ++d) mean.values.push_back(static_cast<float>(moments.mean(d)));
      for (std::int64_t a = 0; a < dim; ++a)
        for (std::int64_t b = 0; b < dim; ++b) covariance.values.push_back(static_cast<float>(sigma(a, b)));
    }
  out.numbers["fitted_error"] = 0;
  out.numbers["held_out_error"] = held / static_cast<double>(card.layers * card.query_heads);
}

void fit_query_centres(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  CalibrationTensor& mean = out.tensors["mean"];
  CalibrationTensor& modulus = out.tensors["modulus"];
  mean.shape = {card.layers, card.query_heads, card.head_dim};
  modulus.shape = {card.layers, card.query_heads, card.head_dim / 2};
  double held = 0;
  for (std::int64_t l = 0; l < card.layers; ++l)
    for (std::int64_t h = 0; h < card.query_heads; ++h) {
      const Moments moments = moments_of(split.fitted, card, l, h, true, 4);
      const Moments other = moments_of(split.held_out, card, l, h, true, 4);
      held += (moments.mean - other.mean).norm() / std::max(other.mean.norm(), 1e-12);
      for (std::int64_t d = 0; d < card.head_dim; ++d) mean.values.push_back(static_cast<float>(moments.mean(d)));
      for (std::int64_t m = 0; m < card.head_dim / 2; ++m)
        modulus.values.push_back(static_cast<float>(moments.modulus(m)));
    }
  out.numbers["fitted_error"] = 0;
  out.numbers["held_out_error"] = held / static_cast<double>(card.layers * card.query_heads);
}

}  // namespace kvgrind::replay
