#include "replay/metrics/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace kvgrind::replay {
namespace {

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

}  // namespace

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
  }
  return out;
}

}  // namespace kvgrind::replay
