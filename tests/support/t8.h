// The worked examples' fixture, T8 (tests/support/synthetic_source.h), and the two questions asked of it.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "sim/engine/bound_policy.h"
#include "tests/support/synthetic_source.h"

namespace kvgrind::tests {

inline const SyntheticSource& attention() {
  static const SyntheticSource source(t8_attention());
  return source;
}
inline const SyntheticSource& geometry() {
  static const SyntheticSource source(t8_geometry());
  return source;
}

// What a policy keeps of the first group at the end.
inline std::vector<std::int64_t> kept(const SyntheticSource& source, std::string_view policy, std::string_view amount,
                                      EngineSetup setup = {}) {
  setup.amount = sim::parse_amount(amount);
  return run_engine(policy, source, setup).kept(0, 0);
}

// What a score call gives over the first `at` tokens of the source (0 = all), in order of position.
inline sim::Columns columns(const SyntheticSource& source, const std::string& call,
                            sim::Granularity granularity = sim::Granularity::kv_head, std::int64_t at = 0) {
  const std::int64_t tokens = at > 0 ? at : source.tokens();
  const sim::BoundCall bound = sim::bind_call("score", parse_call(call), call);
  sim::CacheState cache(source.card(), granularity);
  source.feed(cache, 0, tokens);
  const sim::RunFacts facts{.card = &source.card()};
  const sim::Moment moment{.tokens = tokens, .compress = true};
  sim::Memory memory;
  const sim::Params none;
  const sim::ScoreContext context{none, facts, moment, source, cache, 0, 0, memory};
  sim::Columns out;
  context.evaluate(bound, out);
  return out;
}

}  // namespace kvgrind::tests
