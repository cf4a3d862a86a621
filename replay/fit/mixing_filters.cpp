// LoCoCo's convolution from recordings: K and V of what is no heavy hitter are mixed so that the queries after the
// context get the output of the full cache.
//   per  prompt and KV head: by column sums the best 2C tokens are kept (C = --vectors), the lower half of them become
//        mixed slots; later tokens are all there
//   loss Σ ‖output − full output‖² / Σ ‖full output‖² over the queries after the context, slopes by hand, Adam
//   out  of layer l: "w l" [C, width · 2D], "b l" [C], "nu l" [1]; error = loss over that of nu = 0 (plain dropping)
//   source: arXiv 2406.05317; VITA-Group/LoCoCo; deviations: one compression a prompt, output error of a layer instead
//   of the language model's loss
#include "replay/fit/mixing_filters.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "core/error.h"
#include "core/parallel.h"
#include "sim/engine/neighbourhoods.h"

namespace kvgrind::replay {

double mixing_loss(const MixingExample& e, const MixingFilter& filter, MixingFilter* slope) {
  const Eigen::Index n = e.x.rows(), slots = static_cast<Eigen::Index>(e.slot.size()), m = e.q.rows();
  const Eigen::MatrixXd before = (e.x * filter.w.topRows(slots).transpose()).rowwise() + filter.b.head(slots);
  Eigen::MatrixXd w = before.cwiseMax(0.0), residual = Eigen::MatrixXd::Zero(n, slots);
  for (Eigen::Index c = 0; c < slots; ++c) {
    w.col(c) = (w.col(c).array() - w.col(c).maxCoeff()).exp().matrix();
    w.col(c) /= w.col(c).sum();
    residual(e.slot[static_cast<std::size_t>(c)], c) = 1;
  }
  const Eigen::MatrixXd weight = (1 - filter.nu) * residual + filter.nu * w;
  const Eigen::MatrixXd k = weight.transpose() * e.k, v = weight.transpose() * e.v;
  Eigen::MatrixXd p(m, slots + e.logit.cols());
  p << e.q * k.transpose(), e.logit;
  for (Eigen::Index i = 0; i < m; ++i) {
    p.row(i) = (p.row(i).array() - p.row(i).maxCoeff()).exp().matrix();
    p.row(i) /= p.row(i).sum();
  }
  const Eigen::MatrixXd out = p.leftCols(slots) * v + p.rightCols(e.logit.cols()) * e.value;
  const double scale = 1 / std::max(e.full.squaredNorm(), 1e-30);
  if (slope) {
    const Eigen::MatrixXd d_out = 2 * scale * (out - e.full);
    const Eigen::MatrixXd mine = p.leftCols(slots);
    const Eigen::VectorXd mean = (d_out.array() * out.array()).rowwise().sum().matrix();
    const Eigen::MatrixXd d_p = (d_out * v.transpose()).colwise() - mean;
    const Eigen::MatrixXd d_z = (mine.array() * d_p.array()).matrix();
    const Eigen::MatrixXd d_k = d_z.transpose() * e.q, d_v = mine.transpose() * d_out;
    const Eigen::MatrixXd d_weight = e.k * d_k.transpose() + e.v * d_v.transpose();
    slope->nu += (d_weight.array() * (w - residual).array()).sum();
    const Eigen::MatrixXd d_w = filter.nu * d_weight;
    const Eigen::RowVectorXd along = (w.array() * d_w.array()).colwise().sum().matrix();
    const Eigen::MatrixXd d_before =
        (before.array() > 0).select((w.array() * (d_w.rowwise() - along).array()).matrix(), 0.0);
    slope->w.topRows(slots) += d_before.transpose() * e.x;
    slope->b.head(slots) += d_before.colwise().sum();
  }
  return scale * (out - e.full).squaredNorm();
}

namespace {

constexpr std::int64_t width = 21;

std::vector<MixingExample> examples_of(const std::vector<FitSequence>& sequences, const ModelCard& card,
                                       std::int64_t layer, std::int64_t slots) {
  std::vector<MixingExample> out;
  for (const FitSequence& sequence : sequences) {
    const auto [begin, end] = sequence.future();
    if (begin >= end || sequence.moment <= 2 * slots) continue;
    for (std::int64_t g = 0; g < card.kv_heads; ++g) {
      std::vector<double> mass(static_cast<std::size_t>(sequence.moment));
      for (std::int64_t h = g * card.group(); h < (g + 1) * card.group(); ++h) {
        const std::vector<float> sums = sequence.source->column_sums(layer, h, sequence.moment);
        for (std::size_t t = 0; t < mass.size(); ++t) mass[t] += static_cast<double>(sums[t]);
      }
      std::vector<std::int32_t> order(mass.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        return mass[static_cast<std::size_t>(a)] > mass[static_cast<std::size_t>(b)];
      });
      std::vector<std::int32_t> rest(order.begin(), order.begin() + slots), others(order.begin() + slots, order.end()),
          mixed(order.begin() + slots, order.begin() + 2 * slots);
      std::sort(others.begin(), others.end());
      std::sort(mixed.begin(), mixed.end());
      for (std::int64_t t = sequence.moment; t < end; ++t) rest.push_back(static_cast<std::int32_t>(t));
      const Rows k = sequence.keys(layer, g), v = sequence.values(layer, g);
      const auto view = [](const Rows& x) { return View<const float, 2>(x.data(), {x.rows(), x.cols()}); };
      const Array<float, 2> x = sim::neighbourhoods(view(k), view(v), others, width);
      MixingExample example;
      example.x = Eigen::Map<const Rows>(x.data(), x.extent(0), x.extent(1)).cast<double>();
      example.k = k(others, Eigen::all).cast<double>();
      example.v = v(others, Eigen::all).cast<double>();
      for (const std::int32_t slot : mixed)
        example.slot.push_back(std::lower_bound(others.begin(), others.end(), slot) - others.begin());
      const std::int64_t rows = end - begin, group = card.group(), dim = card.head_dim;
      example.q.resize(rows * group, dim);
      example.full.resize(rows * group, dim);
      for (std::int64_t h = 0; h < group; ++h) {
        const Rows q = sequence.queries(layer, g * group + h, begin, rows);
        example.q.middleRows(h * rows, rows) = q.cast<double>() * static_cast<double>(card.scale);
        example.full.middleRows(h * rows, rows) = (causal_attention(card, layer, q, begin, k) * v).cast<double>();
      }
      example.value = v(rest, Eigen::all).cast<double>();
      example.logit = example.q * k(rest, Eigen::all).cast<double>().transpose();
      for (std::int64_t i = 0; i < example.logit.rows(); ++i)
        for (std::size_t r = 0; r < rest.size(); ++r)
          if (rest[r] > begin + i % rows)
            example.logit(i, static_cast<Eigen::Index>(r)) = -std::numeric_limits<double>::infinity();
      out.push_back(std::move(example));
    }
  }
  return out;
}

// Loss of all examples over that of plain dropping.
double relative_loss(const std::vector<MixingExample>& examples, const MixingFilter& filter) {
  MixingFilter plain = filter;
  plain.nu = 0;
  double loss = 0, dropped = 0;
  for (const MixingExample& example : examples) {
    loss += mixing_loss(example, filter, nullptr);
    dropped += mixing_loss(example, plain, nullptr);
  }
  return dropped > 0 ? loss / dropped : 1;
}

MixingFilter learn(const std::vector<MixingExample>& examples, std::int64_t slots, std::int64_t epochs,
                   std::uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<double> normal;
  const Eigen::Index columns = examples.at(0).x.cols();
  MixingFilter filter{Eigen::MatrixXd(slots, columns), Eigen::RowVectorXd::Constant(slots, 0.1)};
  for (Eigen::Index i = 0; i < filter.w.size(); ++i)
    filter.w.data()[i] = normal(rng) / std::sqrt(static_cast<double>(columns));
  MixingFilter m{Eigen::MatrixXd::Zero(slots, columns), Eigen::RowVectorXd::Zero(slots), 0}, v = m;
  MixingFilter best = filter;
  double least = relative_loss(examples, filter);
  for (std::int64_t epoch = 1; epoch <= epochs; ++epoch) {
    MixingFilter slope{Eigen::MatrixXd::Zero(slots, columns), Eigen::RowVectorXd::Zero(slots), 0};
    for (const MixingExample& example : examples) mixing_loss(example, filter, &slope);
    const double a = 1 / (1 - std::pow(0.9, epoch)), c = 1 / (1 - std::pow(0.99, epoch));
    const auto step = [&](auto& value, const auto& d, auto& mean, auto& square, double rate) {
      mean = 0.9 * mean + 0.1 * d;
      square = 0.99 * square + 0.01 * d.cwiseAbs2();
      value.array() -= rate * a * mean.array() / ((c * square.array()).sqrt() + 1e-12);
    };
    step(filter.w, slope.w, m.w, v.w, 0.01);
    step(filter.b, slope.b, m.b, v.b, 0.01);
    m.nu = 0.9 * m.nu + 0.1 * slope.nu;
    v.nu = 0.99 * v.nu + 0.01 * slope.nu * slope.nu;
    filter.nu = std::clamp(filter.nu - 0.02 * a * m.nu / (std::sqrt(c * v.nu) + 1e-12), 0.0, 1.0);
    if (const double loss = relative_loss(examples, filter); loss < least) {
      least = loss;
      best = filter;
    }
  }
  return best;
}

}  // namespace

void fit_mixing_filters(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  const std::int64_t slots = split.request.vectors;
  const auto layers = static_cast<std::size_t>(card.layers);
  std::vector<MixingFilter> filters(layers);
  std::vector<double> fitted(layers), held(layers);
  parallel_for(card.layers, [&](std::int64_t l) {
    const auto at = static_cast<std::size_t>(l);
    const std::vector<MixingExample> examples = examples_of(split.fitted, card, l, slots);
    if (examples.empty())
      throw Error(Category::usage, {.doing = "fitting",
                                    .on = "lococo",
                                    .found = "contexts of no more than twice the mixed slots",
                                    .expected = "longer ones",
                                    .next = "smaller --vectors"});
    filters[at] = learn(examples, slots, split.request.epochs, 7 + static_cast<std::uint64_t>(l));
    fitted[at] = relative_loss(examples, filters[at]);
    held[at] = relative_loss(examples_of(split.held_out, card, l, slots), filters[at]);
  });
  double fitted_sum = 0, held_sum = 0;
  for (std::size_t l = 0; l < layers; ++l) {
    const std::string place = " " + std::to_string(l);
    const Rows w = filters[l].w.cast<float>();
    out.tensors["w" + place] = {{w.rows(), w.cols()}, {w.data(), w.data() + w.size()}};
    CalibrationTensor& b = out.tensors["b" + place];
    b.shape = {slots};
    for (const double x : filters[l].b) b.values.push_back(static_cast<float>(x));
    out.tensors["nu" + place] = {{1}, {static_cast<float>(filters[l].nu)}};
    fitted_sum += fitted[l];
    held_sum += held[l];
  }
  out.numbers["fitted_error"] = fitted_sum / static_cast<double>(layers);
  out.numbers["held_out_error"] = held_sum / static_cast<double>(layers);
}

}  // namespace kvgrind::replay
