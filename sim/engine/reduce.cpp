#include "sim/engine/reduce.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

namespace kvgrind::sim {

std::vector<float> reduce_heads(const std::vector<std::vector<double>>& head, std::string_view how) {
  assert(!head.empty() && (how != "none" || head.size() == 1));
  std::vector<double> out = head[0];
  for (std::size_t h = 1; h < head.size(); ++h)
    for (std::size_t j = 0; j < out.size(); ++j)
      out[j] = how == "max" ? std::max(out[j], head[h][j]) : out[j] + head[h][j];
  if (how == "mean")
    for (double& value : out) value /= static_cast<double>(head.size());
  return {out.begin(), out.end()};
}

std::vector<std::vector<double>> running_column_sums(const ScoreContext& context) {
  const std::int64_t tokens = context.moment.tokens;
  const GroupSlots& slots = context.slots();
  // How far the sums of this group reach; kept apart from the moment's, so that two scores may share them.
  std::vector<float>& until = context.memory["column_sum until"];
  until.resize(1, 0.0f);
  const auto seen = static_cast<std::int64_t>(until[0]);
  std::vector<std::vector<double>> out;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::int64_t head = context.first_query_head() + h;
    std::vector<float>& sum = context.memory[fmt::format("column_sum {}", h)];
    if (seen == 0) {
      sum = context.signals.column_sums(context.layer, head, tokens);
    } else if (tokens > seen) {
      sum.resize(static_cast<std::size_t>(tokens), 0.0f);
      const std::vector<double> more = context.attention_sum(head, seen, tokens - seen);
      for (std::size_t j = 0; j < more.size(); ++j)
        sum[static_cast<std::size_t>(slots.position[j])] += static_cast<float>(more[j]);
    }
    std::vector<double>& column = out.emplace_back();
    for (const std::int64_t position : slots.position) column.push_back(sum[static_cast<std::size_t>(position)]);
  }
  until[0] = static_cast<float>(tokens);
  return out;
}

}  // namespace kvgrind::sim
