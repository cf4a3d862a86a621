#include "replay/validate/agreement.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/parallel.h"
#include "core/rng.h"
#include "replay/statistics/ranks.h"

namespace kvgrind::replay {
namespace {

double mean_of(const std::vector<double>& values, const std::vector<std::int64_t>& at) {
  double sum = 0;
  std::int64_t n = 0;
  for (const std::int64_t i : at)
    if (const double x = values[static_cast<std::size_t>(i)]; !std::isnan(x)) {
      sum += x;
      ++n;
    }
  return n ? sum / static_cast<double>(n) : std::numeric_limits<double>::quiet_NaN();
}

std::vector<std::int64_t> all_prompts(const std::vector<const Cell*>& cells) {
  std::vector<std::int64_t> at(cells.empty() ? 0 : cells[0]->truth.size());
  std::iota(at.begin(), at.end(), 0);
  return at;
}

struct Pairs {
  std::vector<double> x, y;
};

Pairs pairs_of(const std::vector<const Cell*>& cells, const std::string& figure, const std::vector<std::int64_t>& at,
               const InformativeRange* range) {
  Pairs out;
  for (const Cell* cell : cells) {
    const double truth = mean_of(cell->truth, at), value = mean_of(cell->figure.at(figure), at);
    if (std::isnan(truth) || std::isnan(value)) continue;
    if (range && (truth < range->low || truth > range->high)) continue;
    out.x.push_back(value);
    out.y.push_back(truth);
  }
  return out;
}

Interval interval(double value, std::vector<double> samples) {
  std::erase_if(samples, [](double x) { return std::isnan(x); });
  return {value, quantile(samples, 0.025), quantile(samples, 0.975)};
}

// Correlation of the truth of two halves of the prompts, averaged over seeded splits, corrected to full length.
double split_half_ceiling(const std::vector<const Cell*>& cells, const AgreementOptions& options) {
  std::vector<std::int64_t> prompts = all_prompts(cells);
  if (prompts.size() < 2 || cells.size() < 3) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  std::int64_t n = 0;
  for (std::int64_t split = 0; split < options.splits; ++split) {
    const RandomKey key{.seed = options.seed, .sequence = split, .name = "split_half"};
    std::vector<std::int64_t> order = prompts;
    for (std::size_t i = order.size() - 1; i > 0; --i)
      std::swap(order[i], order[random_bits(key, static_cast<std::int64_t>(i)) % (i + 1)]);
    const auto middle = order.begin() + static_cast<std::ptrdiff_t>(order.size() / 2);
    const std::vector<std::int64_t> first(order.begin(), middle), second(middle, order.end());
    std::vector<double> x, y;
    for (const Cell* cell : cells) {
      x.push_back(mean_of(cell->truth, first));
      y.push_back(mean_of(cell->truth, second));
    }
    const double r = spearman(x, y);
    if (std::isnan(r)) continue;
    sum += r;
    ++n;
  }
  if (n == 0) return std::numeric_limits<double>::quiet_NaN();
  const double r = sum / static_cast<double>(n);
  return r <= 0 ? r : 2 * r / (1 + r);
}

std::vector<std::string> shared_figures(const std::vector<const Cell*>& cells) {
  std::vector<std::string> out;
  if (cells.empty()) return out;
  for (const auto& [name, values] : cells[0]->figure)
    if (std::all_of(cells.begin(), cells.end(), [&name = name](const Cell* c) { return c->figure.contains(name); }))
      out.push_back(name);
  return out;
}

void add_agreements(std::vector<Agreement>& out, const std::vector<const Cell*>& cells, const std::string& amount,
                    const AgreementOptions& options) {
  const std::vector<std::string> figures = shared_figures(cells);
  if (figures.empty()) return;
  const std::vector<std::int64_t> prompts = all_prompts(cells);
  const double ceiling = split_half_ceiling(cells, options);
  std::vector<Agreement> rows(figures.size());
  parallel_for(static_cast<std::int64_t>(figures.size()), [&](std::int64_t f) {
    const std::string& figure = figures[static_cast<std::size_t>(f)];
    const Pairs everything = pairs_of(cells, figure, prompts, nullptr);
    const Pairs informative = pairs_of(cells, figure, prompts, &options.range);
    std::vector<double> rho, tau, rho_informative;
    for (std::int64_t r = 0; r < options.resamples; ++r) {
      const auto at = bootstrap_indices(options.seed, r, static_cast<std::int64_t>(prompts.size()));
      const Pairs a = pairs_of(cells, figure, at, nullptr), b = pairs_of(cells, figure, at, &options.range);
      rho.push_back(spearman(a.x, a.y));
      tau.push_back(kendall_tau_b(a.x, a.y));
      rho_informative.push_back(spearman(b.x, b.y));
    }
    Agreement& row = rows[static_cast<std::size_t>(f)];
    row.figure = figure;
    row.amount = amount;
    row.cells = static_cast<std::int64_t>(everything.x.size());
    row.informative_cells = static_cast<std::int64_t>(informative.x.size());
    row.spearman = interval(spearman(everything.x, everything.y), rho);
    row.kendall = interval(kendall_tau_b(everything.x, everything.y), tau);
    row.spearman_informative = interval(spearman(informative.x, informative.y), rho_informative);
    row.ceiling = ceiling;
  });
  for (const Agreement& row : rows)  // a figure that is the same everywhere tells nothing
    if (!std::isnan(row.spearman.value) || !amount.empty()) out.push_back(row);
}

std::vector<const Cell*> with_amount(const std::vector<Cell>& cells, const std::string& amount) {
  std::vector<const Cell*> out;
  for (const Cell& cell : cells)
    if (amount.empty() || cell.amount == amount) out.push_back(&cell);
  return out;
}

std::vector<std::string> amounts_of(const std::vector<Cell>& cells) {
  std::vector<std::string> out;
  for (const Cell& cell : cells)
    if (std::find(out.begin(), out.end(), cell.amount) == out.end()) out.push_back(cell.amount);
  return out;
}

}  // namespace

std::vector<Agreement> agreement(const std::vector<Cell>& cells, const AgreementOptions& options) {
  std::vector<Agreement> out;
  add_agreements(out, with_amount(cells, ""), "", options);
  for (const std::string& amount : amounts_of(cells)) add_agreements(out, with_amount(cells, amount), amount, options);
  return out;
}

std::vector<Decision> decisions(const std::vector<Cell>& cells) {
  std::vector<Decision> out;
  for (const std::string& amount : amounts_of(cells)) {
    std::vector<const Cell*> contenders;
    for (const Cell* cell : with_amount(cells, amount))
      if (!cell->aware && !cell->oracle && !cell->over) contenders.push_back(cell);
    if (contenders.empty()) continue;
    const auto prompts = all_prompts(contenders);
    const auto lowest = [&](auto value) {
      return *std::min_element(contenders.begin(), contenders.end(),
                               [&](const Cell* a, const Cell* b) { return value(*a) < value(*b); });
    };
    const auto truth = [&](const Cell& cell) { return mean_of(cell.truth, prompts); };
    const Cell* best = lowest(truth);
    for (const std::string& figure : shared_figures(contenders)) {
      const Cell* chosen = lowest([&](const Cell& cell) { return mean_of(cell.figure.at(figure), prompts); });
      out.push_back({figure, amount, chosen->method, best->method, truth(*chosen) - truth(*best)});
    }
  }
  return out;
}

std::vector<Disagreement> disagreements(const std::vector<Cell>& cells, const std::string& figure, std::int64_t count) {
  std::vector<Disagreement> out;
  std::vector<const Cell*> all;
  for (const Cell& cell : cells)
    if (cell.figure.contains(figure)) all.push_back(&cell);
  const auto prompts = all_prompts(all);
  std::vector<double> x, y;
  for (const Cell* cell : all) {
    x.push_back(mean_of(cell->figure.at(figure), prompts));
    y.push_back(mean_of(cell->truth, prompts));
  }
  const auto by_figure = average_ranks(x), by_truth = average_ranks(y);
  for (std::size_t i = 0; i < all.size(); ++i)
    out.push_back({figure, all[i]->method, all[i]->amount, x[i], y[i],
                   (by_figure[i] - by_truth[i]) / static_cast<double>(all.size())});
  std::stable_sort(out.begin(), out.end(), [](const Disagreement& a, const Disagreement& b) {
    return std::abs(a.rank_gap) > std::abs(b.rank_gap);
  });
  if (static_cast<std::int64_t>(out.size()) > count) out.resize(static_cast<std::size_t>(count));
  return out;
}

}  // namespace kvgrind::replay
