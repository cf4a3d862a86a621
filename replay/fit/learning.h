// Small parts that fits by gradient or least squares share.
#pragma once
#include <Eigen/Core>
#include <cmath>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "replay/fit/fit_data.h"

namespace kvgrind::replay {

// To mean 0 and unit spread, by column.
struct Scaling {
  Eigen::RowVectorXd mean, inverse;
  explicit Scaling(const Eigen::MatrixXd& x) : mean(x.colwise().mean()) {
    const Eigen::RowVectorXd squares = (x.rowwise() - mean).array().square().colwise().mean();
    inverse = (squares.array().sqrt() + 1e-6).inverse();
  }
  Eigen::MatrixXd operator()(const Eigen::MatrixXd& x) const {
    return ((x.rowwise() - mean).array().rowwise() * inverse.array()).matrix();
  }
};

struct Adam {
  Eigen::ArrayXXd first, second;
  void step(Eigen::Ref<Eigen::MatrixXd> x, const Eigen::MatrixXd& slope, double rate, int t) {
    if (first.size() == 0) first = second = Eigen::ArrayXXd::Zero(x.rows(), x.cols());
    first = 0.9 * first + 0.1 * slope.array();
    second = 0.999 * second + 0.001 * slope.array().square();
    x.array() -= rate * (first / (1 - std::pow(0.9, t))) / ((second / (1 - std::pow(0.999, t))).sqrt() + 1e-8);
  }
};

inline void store(Calibration& out, const std::string& name, const Eigen::MatrixXd& x, bool vector) {
  CalibrationTensor& tensor = out.tensors[name];
  tensor.shape = vector ? std::vector<std::int64_t>{x.cols()} : std::vector<std::int64_t>{x.rows(), x.cols()};
  for (Eigen::Index i = 0; i < x.rows(); ++i)
    for (Eigen::Index j = 0; j < x.cols(); ++j) tensor.values.push_back(static_cast<float>(x(i, j)));
}

// Contexts of sequences, each once, with what a score of the policy engine gives their tokens: for fits whose labels
// are such scores. Error(usage) names a signal that was not recorded.
class ScoredContexts {
 public:
  ScoredContexts(const std::vector<FitSequence>& sequences, const std::string& score);
  struct Table {
    Eigen::MatrixXd x, y;  // [tokens, features], [tokens, Hk]
  };
  Table table(std::int64_t layer) const;

 private:
  struct One {
    const FitSequence* sequence;
    std::unique_ptr<FitCache> cache;
  };
  std::vector<One> contexts_;
  sim::BoundCall score_;
};

}  // namespace kvgrind::replay
