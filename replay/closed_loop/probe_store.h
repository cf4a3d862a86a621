// What passes over a prompt's context once more showed, for policies of the closed loop: made at the first wish, kept
// with the prompt.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "core/probe.h"
#include "replay/probe/probe_plan.h"
#include "sim/engine/cache_state.h"
#include "sim/model/runtime.h"

namespace kvgrind::replay {

struct ProbeStore {
  std::map<ProbeKind, std::vector<std::vector<ProbeColumns>>> columns;  // [L · Hq], by number of the pass
  std::map<ProbeKind, std::int64_t> fed_tokens;                         // what it cost
};

struct ProbeRun {
  const sim::Model& model;
  const sim::RunOptions& options;
  const sim::CacheState& context;  // the context, whole
  std::int64_t chunk = 512;
};
// Really runs all passes of a kind, each on a copy of the context's cache. Error(usage) when they do not fit the model.
void run_probes(const ProbeRun& run, const ProbedContext& context, ProbePlan plan, ProbeKind kind, ProbeStore& out);

}  // namespace kvgrind::replay
