#include "replay/metrics/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace kvgrind::replay {
namespace {

// Chosen on a few prompts a task of the two models of the study; how they do on others: replay/guide/trust.md.
constexpr double predicted_steepness = 10.0, predicted_look_up = 2.0, predicted_edge = 1e-4;

// Nothing when there is nothing to divide by; NaN stays NaN: it came from the recording and must be seen.
std::optional<double> ratio(double part, double whole) {
  if (whole == 0) return std::nullopt;
  return part / whole;
}

struct Sums {
  MassTally near, far;
  double mass = 0, kept = 0;
  double top_kept = 0, top = 0;
};

void add(MassTally& to, const MassTally& from) {
  to.mass += from.mass;
  to.kept += from.kept;
  to.lost += from.lost;
  to.strong += from.strong;
}

// Mean over layers and the set's queries of numerator / denominator.
double mean_ratio(const Array<double, 2>& numerator, const Array<double, 2>& denominator,
                  const std::vector<std::int64_t>& rows) {
  double sum = 0;
  for (std::int64_t l = 0; l < numerator.extent(0); ++l)
    for (const std::int64_t row : rows) {
      const double below = denominator(l, row), above = numerator(l, row);
      // A residual of zero norm with no shift is no shift.
      sum += above == 0 ? 0.0 : above / below;
    }
  const double n = static_cast<double>(numerator.extent(0)) * static_cast<double>(rows.size());
  return sum / n;
}

// The mean over the set's queries whose next token has a known probability; nothing where none has.
std::optional<Metric> predicted(const TallyTable& table, const MeasuredSet& set) {
  double sum = 0;
  std::int64_t n = 0;
  for (const std::int64_t row : set.rows) {
    if (table.nll.empty() || std::isnan(table.nll[static_cast<std::size_t>(row)])) continue;
    double shift = 0, lost = 0, strong = 0;
    for (std::int64_t l = 0; l < table.shift.extent(0); ++l)
      if (const double above = table.shift(l, row); above != 0) shift += above / table.residual(l, row);
    for (std::int64_t l = 0; l < table.rows.extent(0); ++l)
      for (std::int64_t h = 0; h < table.rows.extent(1); ++h) {
        lost += table.rows(l, h, row).far.lost;
        strong += table.rows(l, h, row).far.strong;
      }
    const double fall =
        predicted_fall(shift / static_cast<double>(table.shift.extent(0)), strong == 0 ? 0.0 : lost / strong, strong);
    sum += predicted_loss(table.nll[static_cast<std::size_t>(row)], fall);
    ++n;
  }
  if (n == 0) return std::nullopt;
  return Metric{.value = sum / static_cast<double>(n),
                .n = n,
                .kind = set.complete && n == static_cast<std::int64_t>(set.rows.size()) ? "exact" : "estimated"};
}

}  // namespace

double predicted_fall(double shift, double lost, double strong) {
  return predicted_steepness * (shift_weight * shift + std::min(1.0, strong / predicted_look_up) * lost);
}

double predicted_loss(double nll, double fall) {
  if (fall == 0) return 0.0;
  const double p = std::clamp(std::exp(-nll), predicted_edge, 1.0 - predicted_edge);
  return p - 1.0 / (1.0 + (1.0 - p) / p * std::exp(fall));
}

MetricMap figures(const TallyTable& table, const std::vector<MeasuredSet>& sets,
                  std::vector<std::string>& not_measured) {
  MetricMap out;
  if (table.shift.empty())
    not_measured.push_back("E, D, output_error: W_O (signal output_projection) was not recorded");
  else if (table.residual.empty())
    not_measured.push_back("E, D: norms of the residual (signal hidden_norm) were not recorded");
  for (const MeasuredSet& set : sets) {
    if (set.rows.empty()) continue;
    const auto n = static_cast<std::int64_t>(set.rows.size());
    const std::string kind = set.complete ? "exact" : "estimated";
    const auto put = [&](const std::string& figure, const std::string& side, std::optional<double> value) {
      if (value) out[fmt::format("{}.{}{}", figure, set.name, side)] = Metric{.value = *value, .n = n, .kind = kind};
    };
    Sums sums;
    std::int64_t nan_rows = 0;
    for (std::int64_t l = 0; l < table.rows.extent(0); ++l)
      for (std::int64_t h = 0; h < table.rows.extent(1); ++h)
        for (const std::int64_t r : set.rows) {
          const RowTally& row = table.rows(l, h, r);
          add(sums.near, row.near);
          add(sums.far, row.far);
          sums.mass += row.mass;
          sums.kept += row.kept;
          sums.top_kept += row.top_kept;
          sums.top += row.top;
          if (std::isnan(row.mass)) ++nan_rows;
        }
    if (nan_rows > 0)
      not_measured.push_back(fmt::format("{}: {} of {} attention rows of the recording are NaN", set.name, nan_rows,
                                         n * table.rows.extent(0) * table.rows.extent(1)));
    put("recall", "", ratio(sums.kept, sums.mass));
    put("recall", ".near", ratio(sums.near.kept, sums.near.mass));
    put("recall", ".far", ratio(sums.far.kept, sums.far.mass));
    put("far_mass_frac", "", ratio(sums.far.mass, sums.mass));
    const std::optional<double> lost_share = ratio(sums.near.lost + sums.far.lost, sums.near.strong + sums.far.strong);
    put("S", "", lost_share);
    put("S", ".near", ratio(sums.near.lost, sums.near.strong));
    put("S", ".far", ratio(sums.far.lost, sums.far.strong));
    put(fmt::format("top{}_overlap", table.overlap_keys), "", ratio(sums.top_kept, sums.top));
    if (table.shift.empty()) continue;
    if (!table.output.empty()) put("output_error", "", mean_ratio(table.shift, table.output, set.rows));
    if (table.residual.empty()) continue;
    const double shift = mean_ratio(table.shift, table.residual, set.rows);
    put("E", "", shift);
    if (lost_share) put("D", "", std::isnan(shift) ? shift : std::max(*lost_share, shift_weight * shift));
    if (const auto loss = predicted(table, set)) out[fmt::format("predicted_dprob.{}", set.name)] = *loss;
  }
  return out;
}

}  // namespace kvgrind::replay
