// The flags that say what to replay, shared by replay and sweep: policies, budgets, protocols, sequences, seeds.
#pragma once
#include <string>
#include <vector>

#include "replay/program/options.h"
#include "replay/sweep/grid.h"
#include "replay/sweep/sweep.h"

namespace kvgrind::program {

struct GridFlags {
  std::vector<std::string> policies, budgets, removed, protocols;
  std::vector<std::string> calibrations;      // files that kvgrind fit wrote
  std::vector<std::string> sequences, seeds;  // comma lists of whole numbers
  bool passes = false;                        // "all" has presets that read the context once more too
};

void add_grid_flags(Options& options, GridFlags& flags);

// `base` with everything the flags name put in its place. "all" stands for every preset that needs nothing
// fitted but what is given, and no pass over the context that a plain recording lacks. Error(usage).
replay::Grid grid_of(const GridFlags& flags, replay::Grid base = {});

// "3,5-7" → 3 5 6 7; `what` names the flag in errors.
std::vector<std::int64_t> number_list(const std::string& text, const std::string& what);

// The command line for the run row, unless anonymous.
json::object command_provenance(bool anonymous);

}  // namespace kvgrind::program
