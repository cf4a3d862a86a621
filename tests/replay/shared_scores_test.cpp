// Scores that runs of different amounts share: every preset decides and measures what it does alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "replay/open_loop/open_loop.h"
#include "sim/engine/policy.h"
#include "tests/replay/synthetic_run.h"

namespace kvgrind::replay {
namespace {

using tests::synthetic_run;

struct Seen {
  std::vector<std::vector<std::uint8_t>> kept;  // of every plan, in order
  std::map<std::string, double> metrics;
  std::vector<std::int64_t> counts;
  bool operator==(const Seen&) const = default;
};

Seen seen(const SequenceData& data, const OpenJob& job) {
  Seen out;
  OpenOptions options;
  options.on_plan = [&](const sim::GroupPlan& plan) { out.kept.push_back(plan.keep); };
  const OpenOutcome outcome = run_open(data, job, options);
  for (const auto& [name, metric] : outcome.metrics)
    if (!std::isnan(metric.value)) out.metrics[name] = metric.value;
  out.counts = {outcome.slots_called, outcome.nan_scores, outcome.stored_bytes, outcome.stored_end_bytes};
  return out;
}

TEST(SharedScores, EveryPresetDoesWhatItDoesAlone) {
  const auto run = synthetic_run();
  const SequenceData shared(run, 4);
  std::int64_t presets = 0, sharing = 0;
  for (const std::string& name : sim::preset_names()) {
    const auto policy = sim::bind_policy(name);
    if (!sim::needed_calibrations(*policy).empty()) continue;
    const auto signals = sim::needed_signals(*policy);
    if (!std::all_of(signals.begin(), signals.end(), [&](sim::Signal s) { return shared.source().has(s); })) continue;
    ++presets;
    const std::int64_t before = shared.scores().bytes();
    for (const Protocol protocol : {Protocol::blind, Protocol::aware})
      for (const char* amount : {"0.5", "0.2", "7t"})
        for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{3}}) {
          const OpenJob job{.policy = policy, .amount = sim::parse_amount(amount), .protocol = protocol, .seed = seed};
          EXPECT_EQ(seen(shared, job), seen(SequenceData(run, 4), job)) << name << " " << amount << " " << seed;
        }
    sharing += shared.scores().bytes() > before;
  }
  EXPECT_GE(presets, 50);
  EXPECT_GE(sharing, 30);  // presets of one score share with each other too
}

}  // namespace
}  // namespace kvgrind::replay
