// Fast KVzip's gate (score gate_attention) trained to KVzip's scores in [0, 1].
//   loss: binary cross entropy with soft targets, summed over KV heads; Adam, batches of 256 tokens in a fixed shuffle,
//   the rate falls by a cosine; features are scaled to unit spread, folded into the weights
//   source: arXiv 2601.17668; Janghyun1230/FastKVzip optim.py, utils.py; deviations: Adam instead of SGD with momentum,
//   the bias b enters once (the published training adds it twice on the way of the base keys)
#include <algorithm>
#include <cmath>
#include <random>

#include "core/parallel.h"
#include "replay/fit/learning.h"

namespace kvgrind::replay {
namespace {

constexpr Eigen::Index width = 16, bases = 16;

struct Gate {
  Eigen::Index heads = 0, group = 0;
  Eigen::MatrixXd wq, cq, wk, nq, nk, base, b;  // as the score's tensors; cq, nq, nk, b one row

  // Every part in one order, for steps.
  std::array<Eigen::MatrixXd*, 7> parts() { return {&wq, &cq, &wk, &nq, &nk, &base, &b}; }
};

Gate start(Eigen::Index features, const ModelCard& card) {
  std::mt19937_64 rng(1);
  std::normal_distribution<double> normal(0, 1);
  const auto draw = [&](Eigen::Index rows, Eigen::Index columns, double spread) {
    Eigen::MatrixXd m(rows, columns);
    for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = spread * normal(rng);
    return m;
  };
  const double spread = 1 / std::sqrt(static_cast<double>(features));
  Gate out{.heads = card.kv_heads, .group = card.group()};
  out.wq = draw(features, card.query_heads * width, spread);
  out.cq = Eigen::MatrixXd::Zero(1, card.query_heads * width);
  out.wk = draw(features, card.kv_heads * width, spread);
  out.nq = out.nk = Eigen::MatrixXd::Ones(1, width);
  out.base = draw(card.kv_heads * bases, width, 1);
  out.b = Eigen::MatrixXd::Zero(1, card.query_heads);
  return out;
}

double inverse_rms(const Eigen::RowVectorXd& z) {
  return 1 / std::sqrt(z.squaredNorm() / static_cast<double>(z.size()) + 1e-6);
}

// Slope of z from the slope of weight ∘ z · inverse rms; the weight's own slope is added.
Eigen::RowVectorXd back_through_rms(const Eigen::RowVectorXd& z, const Eigen::MatrixXd& weight,
                                    const Eigen::RowVectorXd& slope, Eigen::MatrixXd& weight_slope) {
  const double r = inverse_rms(z);
  weight_slope.array() += (slope.array() * z.array() * r);
  const Eigen::RowVectorXd inner = (slope.array() * weight.row(0).array()).matrix();
  return inner * r - z * (r * r * r * z.dot(inner) / static_cast<double>(z.size()));
}

// Mean loss a token over rows of x [n, features] with targets y [n, Hk]; slopes are set where wanted.
double loss_of(const Gate& gate, const Eigen::MatrixXd& x, const Eigen::MatrixXd& y, Gate* slope) {
  const auto n = static_cast<double>(std::max<Eigen::Index>(1, x.rows()));
  const double root = std::sqrt(static_cast<double>(width));
  const Eigen::MatrixXd q = (x * gate.wq).rowwise() + gate.cq.row(0), k = x * gate.wk;
  Eigen::MatrixXd dq, dk;
  if (slope) {
    *slope = gate;
    for (Eigen::MatrixXd* part : slope->parts()) part->setZero();
    dq = Eigen::MatrixXd::Zero(q.rows(), q.cols());
    dk = Eigen::MatrixXd::Zero(k.rows(), k.cols());
  }
  double loss = 0;
  for (Eigen::Index t = 0; t < x.rows(); ++t)
    for (Eigen::Index g = 0; g < gate.heads; ++g) {
      const Eigen::RowVectorXd zk = k.row(t).segment(g * width, width);
      const Eigen::RowVectorXd key = (zk.array() * inverse_rms(zk) * gate.nk.row(0).array()).matrix();
      const auto base = gate.base.middleRows(g * bases, bases);
      Eigen::MatrixXd queries(gate.group, width), e(gate.group, bases);
      Eigen::VectorXd open(gate.group);
      for (Eigen::Index u = 0; u < gate.group; ++u) {
        const Eigen::RowVectorXd zq = q.row(t).segment((g * gate.group + u) * width, width);
        queries.row(u) = (zq.array() * inverse_rms(zq) * gate.nq.row(0).array()).matrix();
        const double own = key.dot(queries.row(u)) / root + gate.b(0, g * gate.group + u);
        e.row(u) = ((base * queries.row(u).transpose() / root).array() - own).exp().matrix().transpose();
        open(u) = 1 / (1 + e.row(u).sum());
      }
      const double s = std::clamp(open.mean(), 1e-7, 1 - 1e-7), wanted = y(t, g);
      loss -= (wanted * std::log(s) + (1 - wanted) * std::log(1 - s)) / n;
      if (!slope) continue;
      const double ds = (s - wanted) / (s * (1 - s)) / n / static_cast<double>(gate.group);
      Eigen::RowVectorXd dkey = Eigen::RowVectorXd::Zero(width);
      for (Eigen::Index u = 0; u < gate.group; ++u) {
        const Eigen::Index at = g * gate.group + u;
        const Eigen::RowVectorXd zq = q.row(t).segment(at * width, width);
        const double square = open(u) * open(u), down = ds * square * e.row(u).sum();
        const Eigen::RowVectorXd others = -ds * square * e.row(u);
        slope->b(0, at) += down;
        dkey += down / root * queries.row(u);
        slope->base.middleRows(g * bases, bases) += others.transpose() * queries.row(u) / root;
        const Eigen::RowVectorXd dquery = (down * key + others * base) / root;
        dq.row(t).segment(at * width, width) = back_through_rms(zq, gate.nq, dquery, slope->nq);
      }
      dk.row(t).segment(g * width, width) = back_through_rms(zk, gate.nk, dkey, slope->nk);
    }
  if (slope) {
    slope->wq = x.transpose() * dq;
    slope->cq = dq.colwise().sum();
    slope->wk = x.transpose() * dk;
  }
  return loss;
}

// The least loss that any gate could have: the entropy of the targets.
double floor_of(const Eigen::MatrixXd& y) {
  double sum = 0;
  for (Eigen::Index i = 0; i < y.size(); ++i) {
    const double p = y.data()[i];
    if (p > 0 && p < 1) sum -= p * std::log(p) + (1 - p) * std::log(1 - p);
  }
  return sum / static_cast<double>(std::max<Eigen::Index>(1, y.rows()));
}

Gate train(const Eigen::MatrixXd& x, const Eigen::MatrixXd& y, const ModelCard& card, std::int64_t epochs) {
  Gate gate = start(x.cols(), card), slope;
  std::array<Adam, 7> adam;
  std::mt19937_64 rng(2);
  std::vector<Eigen::Index> order(static_cast<std::size_t>(x.rows()));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<Eigen::Index>(i);
  constexpr Eigen::Index batch = 256;
  int t = 0;
  for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng() % i]);
    const double rate =
        1e-2 * 0.5 * (1 + std::cos(3.14159265358979 * static_cast<double>(epoch) / static_cast<double>(epochs)));
    for (Eigen::Index begin = 0; begin < x.rows(); begin += batch) {
      const Eigen::Index n = std::min(batch, x.rows() - begin);
      Eigen::MatrixXd part(n, x.cols()), wanted(n, y.cols());
      for (Eigen::Index i = 0; i < n; ++i) {
        part.row(i) = x.row(order[static_cast<std::size_t>(begin + i)]);
        wanted.row(i) = y.row(order[static_cast<std::size_t>(begin + i)]);
      }
      (void)loss_of(gate, part, wanted, &slope);
      ++t;
      for (std::size_t i = 0; i < adam.size(); ++i) adam[i].step(*gate.parts()[i], *slope.parts()[i], rate, t);
    }
  }
  return gate;
}

}  // namespace

void fit_repeat_gate(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  const ScoredContexts fitted(split.fitted, "repeat_attention(sinks=0)"),
      held(split.held_out, "repeat_attention(sinks=0)");
  const auto layers = static_cast<std::size_t>(card.layers);
  std::vector<Gate> gates(layers);
  std::vector<double> fitted_loss(layers), held_loss(layers);
  parallel_for(card.layers, [&](std::int64_t l) {
    const auto at = static_cast<std::size_t>(l);
    const ScoredContexts::Table table = fitted.table(l), other = held.table(l);
    // To unit spread, not to mean 0: keys have no constant that could make up for it.
    const Eigen::RowVectorXd inverse = Scaling(table.x).inverse;
    const auto scaled = [&](const Eigen::MatrixXd& x) -> Eigen::MatrixXd {
      return x.array().rowwise() * inverse.array();
    };
    gates[at] = train(scaled(table.x), table.y, card, split.request.epochs);
    fitted_loss[at] = loss_of(gates[at], scaled(table.x), table.y, nullptr) - floor_of(table.y);
    held_loss[at] = loss_of(gates[at], scaled(other.x), other.y, nullptr) - floor_of(other.y);
    for (Eigen::MatrixXd* w : {&gates[at].wq, &gates[at].wk})
      *w = (w->array().colwise() * inverse.transpose().array()).matrix();
  });
  for (std::size_t l = 0; l < layers; ++l) {
    const std::string place = " " + std::to_string(l);
    const Gate& gate = gates[l];
    store(out, "wq" + place, gate.wq, false);
    store(out, "cq" + place, gate.cq, true);
    store(out, "wk" + place, gate.wk, false);
    store(out, "nq" + place, gate.nq, true);
    store(out, "nk" + place, gate.nk, true);
    store(out, "base" + place, gate.base, false);
    store(out, "b" + place, gate.b, true);
    out.numbers["held_out_error layer" + place] = held_loss[l];
    out.numbers["fitted_error"] += fitted_loss[l] / static_cast<double>(layers);
    out.numbers["held_out_error"] += held_loss[l] / static_cast<double>(layers);
  }
}

}  // namespace kvgrind::replay
