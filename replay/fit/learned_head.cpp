// A head that predicts a token's future attention from its own queries, keys and values (Locret), or whether it will be
// among the half that is attended to most (a gate).
//   label of KV head g, token j: the largest attention of any query after the context, over the group's query heads
//   linear: least squares with a ridge on standardised features, by Cholesky; a gate: Newton steps of the logistic
//   loss. an inner layer: silu, squared error, Adam with a fixed order of tokens; features are standardised and the
//   scaling folded into the weights source: arXiv 2410.01805; huangyuxiang03/Locret train.py, data_gen.py; deviations:
//   no smoothing term, plain squared error instead of smooth L1, the recorded queries after the context as the answer
#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "core/parallel.h"
#include "replay/fit/learning.h"

namespace kvgrind::replay {
namespace {

using Table = ScoredContexts::Table;

// What a head learns: a future's attention, whether it is in the upper half, or a score of the policy engine.
struct Aim {
  bool gate = false;
  bool gelu = false;            // of an inner layer; else silu
  const char* score = nullptr;  // the label
};

double phi(double z) { return 0.5 * (1 + std::erf(z * 0.7071067811865476)); }

Table table_of(const std::vector<FitSequence>& sequences, const ModelCard& card, std::int64_t layer, bool gate) {
  std::vector<Rows> x, y;
  Eigen::Index rows = 0;
  for (const FitSequence& sequence : sequences) {
    const auto [begin, end] = sequence.future();
    if (begin >= end || sequence.moment == 0) continue;
    x.push_back(sequence.features(layer));
    Rows& label = y.emplace_back(Rows::Zero(sequence.moment, card.kv_heads));
    for (std::int64_t h = 0; h < card.query_heads; ++h) {
      const std::int64_t g = h / card.group();
      const Rows p =
          causal_attention(card, layer, sequence.queries(layer, h, begin, end - begin), begin, sequence.keys(layer, g));
      label.col(g) = label.col(g).cwiseMax(p.leftCols(sequence.moment).colwise().maxCoeff().transpose());
    }
    if (gate)
      for (std::int64_t g = 0; g < card.kv_heads; ++g) {
        std::vector<float> sorted(label.rows());
        Eigen::Map<Eigen::VectorXf>(sorted.data(), label.rows()) = label.col(g);
        std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
        const float median = sorted[sorted.size() / 2];
        label.col(g) = (label.col(g).array() >= median).cast<float>();
      }
    rows += label.rows();
  }
  Table out{Eigen::MatrixXd(rows, (card.query_heads + 2 * card.kv_heads) * card.head_dim),
            Eigen::MatrixXd(rows, card.kv_heads)};
  Eigen::Index at = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    out.x.middleRows(at, x[i].rows()) = x[i].cast<double>();
    out.y.middleRows(at, x[i].rows()) = y[i].cast<double>();
    at += x[i].rows();
  }
  return out;
}

// y ≈ f(x W1 + b1) W2 + b2, or x W2 + b2 when W1 is empty; on the features as recorded.
struct Head {
  Eigen::MatrixXd w1, w2;
  Eigen::RowVectorXd b1, b2;
  bool gelu = false;
  Eigen::MatrixXd operator()(const Eigen::MatrixXd& x) const {
    if (w1.size() == 0) return (x * w2).rowwise() + b2;
    Eigen::MatrixXd z = (x * w1).rowwise() + b1;
    z = gelu ? Eigen::MatrixXd(z.unaryExpr([](double a) { return a * phi(a); }))
             : Eigen::MatrixXd(z.unaryExpr([](double a) { return a / (1 + std::exp(-a)); }));
    return (z * w2).rowwise() + b2;
  }
};

Head least_squares(const Eigen::MatrixXd& x, const Eigen::MatrixXd& y, double ridge) {
  Head out;
  out.b2 = y.colwise().mean();
  const Eigen::MatrixXd gram = x.transpose() * x + ridge * Eigen::MatrixXd::Identity(x.cols(), x.cols());
  out.w2 = Eigen::LLT<Eigen::MatrixXd>(gram).solve(x.transpose() * (y.rowwise() - out.b2));
  return out;
}

Head logistic(const Eigen::MatrixXd& x, const Eigen::MatrixXd& y, double ridge) {
  Head out;
  out.w2 = Eigen::MatrixXd::Zero(x.cols(), y.cols());
  out.b2 = Eigen::RowVectorXd::Zero(y.cols());
  Eigen::MatrixXd one(x.rows(), x.cols() + 1);
  one << x, Eigen::VectorXd::Ones(x.rows());
  for (Eigen::Index g = 0; g < y.cols(); ++g) {
    Eigen::VectorXd w = Eigen::VectorXd::Zero(one.cols());
    for (int step = 0; step < 8; ++step) {
      const Eigen::VectorXd p = (1 + (-(one * w).array()).exp()).inverse();
      const Eigen::VectorXd weight = (p.array() * (1 - p.array())).max(1e-6);
      const Eigen::VectorXd slope = one.transpose() * (y.col(g) - p) - ridge * w;
      const Eigen::MatrixXd scaled = (one.array().colwise() * weight.array().sqrt()).matrix();
      Eigen::MatrixXd curve = ridge * Eigen::MatrixXd::Identity(one.cols(), one.cols());
      curve.noalias() += scaled.transpose() * scaled;
      w += Eigen::LLT<Eigen::MatrixXd>(curve).solve(slope);
    }
    out.w2.col(g) = w.head(x.cols());
    out.b2(g) = w(x.cols());
  }
  return out;
}

Head network(const Eigen::MatrixXd& x, const Eigen::MatrixXd& y, std::int64_t hidden, std::int64_t epochs, bool gelu) {
  std::mt19937_64 rng(1);
  std::normal_distribution<double> normal(0, 1);
  Head out;
  out.gelu = gelu;
  const auto draw = [&](Eigen::Index rows, Eigen::Index columns) {
    Eigen::MatrixXd m(rows, columns);
    for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = normal(rng) / std::sqrt(static_cast<double>(rows));
    return m;
  };
  const Scaling target(y);  // labels are small: fitted at unit scale, scaled back below
  const Eigen::MatrixXd wanted = target(y);
  out.w1 = draw(x.cols(), hidden);
  out.w2 = draw(hidden, y.cols());
  Eigen::MatrixXd b1 = Eigen::MatrixXd::Zero(1, hidden), b2 = Eigen::MatrixXd::Zero(1, y.cols());
  Adam a1, a2, a3, a4;
  constexpr Eigen::Index batch = 256;
  int t = 0;
  for (std::int64_t epoch = 0; epoch < epochs; ++epoch)
    for (Eigen::Index begin = 0; begin < x.rows(); begin += batch) {
      const Eigen::Index n = std::min(batch, x.rows() - begin);
      const Eigen::MatrixXd part = x.middleRows(begin, n);
      const Eigen::MatrixXd z = (part * out.w1).rowwise() + b1.row(0);
      // f(z) = z · gate(z); f' = gate + z · gate'
      const Eigen::ArrayXXd gate = gelu ? Eigen::ArrayXXd(z.array().unaryExpr([](double a) { return phi(a); }))
                                        : Eigen::ArrayXXd((1 + (-z.array()).exp()).inverse());
      const Eigen::ArrayXXd rise =
          gelu ? Eigen::ArrayXXd((-0.5 * z.array().square()).exp() * 0.3989422804014327) : gate * (1 - gate);
      const Eigen::MatrixXd active = (z.array() * gate).matrix();
      const Eigen::MatrixXd error = ((active * out.w2).rowwise() + b2.row(0)) - wanted.middleRows(begin, n);
      const Eigen::MatrixXd slope = error * (2.0 / static_cast<double>(n));
      const Eigen::MatrixXd back = ((slope * out.w2.transpose()).array() * (gate + z.array() * rise)).matrix();
      const double rate =
          3e-3 * 0.5 * (1 + std::cos(3.14159265358979 * static_cast<double>(epoch) / static_cast<double>(epochs)));
      ++t;
      a2.step(out.w2, active.transpose() * slope, rate, t);
      a4.step(b2, slope.colwise().sum(), rate, t);
      a1.step(out.w1, part.transpose() * back, rate, t);
      a3.step(b1, back.colwise().sum(), rate, t);
    }
  out.b1 = b1.row(0);
  out.w2 = (out.w2.array().rowwise() / target.inverse.array()).matrix();
  out.b2 = (b2.row(0).array() / target.inverse.array() + target.mean.array()).matrix();
  return out;
}

// The scaling of features becomes part of the first weights.
void fold(Head& head, const Scaling& scaling) {
  Eigen::MatrixXd& w = head.w1.size() == 0 ? head.w2 : head.w1;
  Eigen::RowVectorXd& b = head.w1.size() == 0 ? head.b2 : head.b1;
  w = (w.array().colwise() * scaling.inverse.transpose().array()).matrix();
  b -= scaling.mean * w;
}

double error_of(const Head& head, const Table& table, bool gate) {
  if (table.y.rows() == 0) return 1;
  const Eigen::MatrixXd guess = head(table.x);
  if (gate) return ((guess.array() >= 0) != (table.y.array() >= 0.5)).cast<double>().mean();
  const Eigen::MatrixXd centred = table.y.rowwise() - table.y.colwise().mean();
  return (guess - table.y).squaredNorm() / std::max(centred.squaredNorm(), 1e-30);
}

void fit_learned_head(const FitSplit& split, const Aim& aim, Calibration& out) {
  const ModelCard& card = split.card;
  const bool gate = aim.gate;
  std::optional<ScoredContexts> scored_fitted, scored_held;
  if (aim.score) {
    scored_fitted.emplace(split.fitted, aim.score);
    scored_held.emplace(split.held_out, aim.score);
  }
  const auto layers = static_cast<std::size_t>(card.layers);
  std::vector<Head> heads(layers);
  std::vector<double> fitted(layers), held(layers);
  parallel_for(card.layers, [&](std::int64_t l) {
    const auto at = static_cast<std::size_t>(l);
    const Table table = scored_fitted ? scored_fitted->table(l) : table_of(split.fitted, card, l, gate);
    const Scaling scaling(table.x);
    const Eigen::MatrixXd x = scaling(table.x);
    heads[at] = gate                       ? logistic(x, table.y, split.request.ridge)
                : split.request.hidden > 0 ? network(x, table.y, split.request.hidden, split.request.epochs, aim.gelu)
                                           : least_squares(x, table.y, split.request.ridge);
    fold(heads[at], scaling);
    fitted[at] = error_of(heads[at], table, gate);
    held[at] = error_of(heads[at], scored_held ? scored_held->table(l) : table_of(split.held_out, card, l, gate), gate);
  });
  double fitted_sum = 0, held_sum = 0;
  for (std::size_t l = 0; l < layers; ++l) {
    const std::string place = " " + std::to_string(l);
    const bool linear = heads[l].w1.size() == 0;
    if (!linear) {
      store(out, "w1" + place, heads[l].w1, false);
      store(out, "b1" + place, heads[l].b1, true);
    }
    store(out, (linear ? "w" : "w2") + place, heads[l].w2, false);
    store(out, (linear ? "b" : "b2") + place, heads[l].b2, true);
    fitted_sum += fitted[l];
    held_sum += held[l];
    out.numbers["held_out_error layer" + place] = held[l];
  }
  out.numbers["logistic"] = gate ? 1 : 0;
  out.numbers["gelu"] = aim.gelu ? 1 : 0;
  out.numbers["fitted_error"] = fitted_sum / static_cast<double>(layers);
  out.numbers["held_out_error"] = held_sum / static_cast<double>(layers);
}

}  // namespace

void fit_learned_score(const FitSplit& split, Calibration& out) { fit_learned_head(split, {}, out); }
void fit_learned_gate(const FitSplit& split, Calibration& out) { fit_learned_head(split, {.gate = true}, out); }
void fit_predicted_repeat(const FitSplit& split, Calibration& out) {
  fit_learned_head(split, {.gelu = true, .score = "repeat_value_attention(sinks=0,over=row,log=on)"}, out);
}

}  // namespace kvgrind::replay
