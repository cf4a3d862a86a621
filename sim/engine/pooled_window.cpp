#include "sim/engine/pooled_window.h"

#include "kernels/pool/pool.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim {

std::size_t slots_before_window(const ScoreContext& context, std::int64_t window) {
  return slots_below(context.slots(), context.moment.tokens - window);
}

std::vector<double> pooled_window(const ScoreContext& context, std::int64_t query_head, std::int64_t window,
                                  std::size_t past, std::int64_t pool, std::string_view kernel) {
  const std::vector<double> sum = context.attention_sum(query_head, context.moment.tokens - window, window);
  std::vector<float> mean(past), pooled(past);
  for (std::size_t j = 0; j < past; ++j) mean[j] = static_cast<float>(sum[j] / static_cast<double>(window));
  (kernel == "max" ? kernels::pool_max : kernels::pool_avg)(mean, pool, pooled);
  return {pooled.begin(), pooled.end()};
}

}  // namespace kvgrind::sim
