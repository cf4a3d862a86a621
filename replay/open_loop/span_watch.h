// Which tokens of each span a policy kept, and when it first lost one: fed with every plan before it is applied.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "replay/open_loop/outcome.h"
#include "sim/engine/cache_state.h"
#include "sim/engine/plan.h"

namespace kvgrind::replay {

class SpanWatch {
 public:
  SpanWatch(const std::vector<Span>& spans, const sim::CacheState& cache);
  void see(const sim::GroupPlan& plan, const sim::CacheState& cache, std::int64_t tokens_seen);
  std::vector<SpanOutcome> outcomes(const sim::CacheState& cache) const;
  // kind → mean of kept_frac, number of spans.
  static std::map<std::string, std::pair<double, std::int64_t>> kept_by_kind(const std::vector<SpanOutcome>& outcomes);

 private:
  struct Watched {
    Span span;
    std::vector<std::int64_t> lost_in;  // per token: groups that dropped it
    std::int64_t first_loss = -1, first_loss_everywhere = -1;
  };
  std::vector<Watched> spans_;
  std::int64_t groups_;
};

}  // namespace kvgrind::replay
