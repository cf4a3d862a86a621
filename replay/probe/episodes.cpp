#include <algorithm>
#include <cmath>
#include <numeric>

#include "replay/probe/probe_plan.h"

namespace kvgrind::replay {
namespace {

double squared_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t d = 0; d < a.size(); ++d) {
    const double x = static_cast<double>(a[d]) - static_cast<double>(b[d]);
    sum += x * x;
  }
  return sum;
}

void to_unit(std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  const double norm = std::sqrt(sum);
  if (norm > 0)
    for (float& v : x) v = static_cast<float>(static_cast<double>(v) / norm);
}

}  // namespace

std::function<std::vector<float>(std::span<const std::int32_t> ids)> mean_embedding(const Tensor& table) {
  return [table](std::span<const std::int32_t> ids) {
    const std::int64_t hidden = table.shape[1], row_bytes = hidden * size_bytes(table.dtype);
    std::vector<float> sum(static_cast<std::size_t>(hidden)), row(sum.size());
    for (const std::int32_t id : ids) {
      to_f32(table.dtype, table.data + id * row_bytes, hidden, row.data());
      for (std::size_t d = 0; d < sum.size(); ++d) sum[d] += row[d];
    }
    for (float& x : sum) x /= static_cast<float>(std::max<std::size_t>(1, ids.size()));
    return sum;
  };
}

std::vector<std::vector<std::size_t>> episodes_of(const std::vector<std::vector<float>>& vectors, std::int64_t clusters,
                                                  std::int64_t medoids) {
  std::vector<std::vector<float>> x = vectors;
  for (std::vector<float>& one : x) to_unit(one);
  const std::size_t n = x.size(), k = std::min(n, static_cast<std::size_t>(std::max<std::int64_t>(1, clusters)));
  if (n == 0) return {};
  std::vector<std::vector<float>> centres = {x[0]};
  std::vector<double> nearest(n, 1e300);
  while (centres.size() < k) {
    for (std::size_t i = 0; i < n; ++i) nearest[i] = std::min(nearest[i], squared_distance(x[i], centres.back()));
    centres.push_back(x[static_cast<std::size_t>(std::max_element(nearest.begin(), nearest.end()) - nearest.begin())]);
  }
  std::vector<std::size_t> of(n, k);
  for (int round = 0; round < 50; ++round) {
    bool moved = false;
    for (std::size_t i = 0; i < n; ++i) {
      std::size_t best = 0;
      for (std::size_t c = 1; c < k; ++c)
        if (squared_distance(x[i], centres[c]) < squared_distance(x[i], centres[best])) best = c;
      moved = moved || of[i] != best;
      of[i] = best;
    }
    if (!moved) break;
    for (std::size_t c = 0; c < k; ++c) {
      std::vector<double> sum(x[0].size());
      std::int64_t members = 0;
      for (std::size_t i = 0; i < n; ++i) {
        if (of[i] != c) continue;
        ++members;
        for (std::size_t d = 0; d < sum.size(); ++d) sum[d] += static_cast<double>(x[i][d]);
      }
      if (members == 0) continue;
      for (std::size_t d = 0; d < sum.size(); ++d)
        centres[c][d] = static_cast<float>(sum[d] / static_cast<double>(members));
    }
  }
  std::vector<std::vector<std::size_t>> out;
  for (std::size_t c = 0; c < k; ++c) {
    std::vector<std::size_t> members;
    for (std::size_t i = 0; i < n; ++i)
      if (of[i] == c) members.push_back(i);
    if (members.empty()) continue;
    std::stable_sort(members.begin(), members.end(), [&](std::size_t a, std::size_t b) {
      return squared_distance(x[a], centres[c]) < squared_distance(x[b], centres[c]);
    });
    members.resize(std::min(members.size(), static_cast<std::size_t>(std::max<std::int64_t>(1, medoids))));
    std::sort(members.begin(), members.end());
    out.push_back(std::move(members));
  }
  return out;
}

}  // namespace kvgrind::replay
