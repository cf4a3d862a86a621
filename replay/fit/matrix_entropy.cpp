// Heads and layers by the truncated matrix entropy of their queries (UNComp).
//   in   post-RoPE queries of the context's tokens
//   out  "head" [L, Hq]: mean over the sequences of a head's place among its layer's by entropy, 0 … 1
//        "layer" [L]: 100 · mean entropy over heads and sequences
//   source: arXiv 2410.03090; menik1126/UNComp entropy_utils.py; deviations: places are averaged where it counts votes
//   for the upper class (the same for a head that is always on one side)
#include "replay/fit/matrix_entropy.h"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/parallel.h"
#include "replay/statistics/ranks.h"

namespace kvgrind::replay {

double matrix_entropy(const Rows& x, std::int64_t k) {
  Eigen::MatrixXd z = x.cast<double>();
  z.rowwise() -= z.colwise().mean().eval();
  for (Eigen::Index i = 0; i < z.rows(); ++i) {
    const double norm = z.row(i).norm();
    if (norm > 0) z.row(i) /= norm;
  }
  const Eigen::MatrixXd moment = z.transpose() * z;
  const double trace = moment.trace();
  if (!(trace > 0) || x.cols() < 2) return 0;
  const Eigen::VectorXd sigma = Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(moment / trace).eigenvalues();
  double out = 0;
  for (Eigen::Index i = 0; i < std::min<Eigen::Index>(k, sigma.size()); ++i)
    if (const double s = sigma(sigma.size() - 1 - i); s > 0) out -= s * std::log(s);
  return out / std::log(static_cast<double>(x.cols()));
}

namespace {

struct Profile {
  std::vector<double> head, layer;  // [L · Hq], [L]
};

Profile profile_of(const std::vector<FitSequence>& sequences, const ModelCard& card) {
  constexpr std::int64_t kept = 32;
  const auto layers = static_cast<std::size_t>(card.layers), heads = static_cast<std::size_t>(card.query_heads);
  Profile out{std::vector<double>(layers * heads), std::vector<double>(layers)};
  for (const FitSequence& sequence : sequences) {
    std::vector<double> entropy(layers * heads);
    parallel_for(card.layers * card.query_heads, [&](std::int64_t at) {
      entropy[static_cast<std::size_t>(at)] =
          matrix_entropy(sequence.queries(at / card.query_heads, at % card.query_heads, 0, sequence.moment), kept);
    });
    for (std::size_t l = 0; l < layers; ++l) {
      std::vector<std::size_t> order(heads);
      std::iota(order.begin(), order.end(), std::size_t{0});
      const double* own = entropy.data() + l * heads;
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return own[a] < own[b]; });
      const auto n = static_cast<double>(sequences.size());
      for (std::size_t place = 0; place < heads; ++place) {
        out.head[l * heads + order[place]] +=
            static_cast<double>(place) / static_cast<double>(std::max<std::size_t>(1, heads - 1)) / n;
        out.layer[l] += 100 * own[place] / static_cast<double>(heads) / n;
      }
    }
  }
  return out;
}

}  // namespace

void fit_matrix_entropy(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  const Profile fitted = profile_of(split.fitted, card), held = profile_of(split.held_out, card);
  out.tensors["head"] = {{card.layers, card.query_heads}, {fitted.head.begin(), fitted.head.end()}};
  out.tensors["layer"] = {{card.layers}, {fitted.layer.begin(), fitted.layer.end()}};
  out.numbers["fitted_error"] = 0;
  out.numbers["held_out_error"] = 1 - pearson(fitted.head, held.head);
}

}  // namespace kvgrind::replay
