#include "replay/program/grid_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "replay/probe/probe_plan.h"
#include "replay/program/command.h"
#include "sim/engine/policy.h"
#include "traces/calibration/calibration_file.h"

namespace kvgrind::program {
namespace {

std::int64_t number(std::string_view text, const std::string& what) {
  std::int64_t value = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (fault != std::errc() || end != text.data() + text.size() || value < 0)
    throw Error(Category::usage, {.doing = "reading the command line",
                                  .on = what,
                                  .found = "\"" + std::string(text) + "\"",
                                  .expected = "whole numbers from 0 on, as in 0,2,4-7"});
  return value;
}

// Upstream's compression ratios: 0 removes nothing, and 1 is none of them.
std::vector<double> removed_shares(const std::string& list) {
  std::vector<double> out;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t comma = std::min(list.find(',', at), list.size());
    const std::string_view piece = std::string_view(list).substr(at, comma - at);
    double share = 0;
    const auto [end, fault] = std::from_chars(piece.data(), piece.data() + piece.size(), share);
    const std::string_view unit(end, static_cast<std::size_t>(piece.data() + piece.size() - end));
    if (unit == "%") share /= 100;
    if (fault != std::errc() || !(unit.empty() || unit == "%") || !(share >= 0 && share < 1))
      throw Error(Category::usage, {.doing = "reading the command line",
                                    .on = "--removed " + list,
                                    .found = "\"" + std::string(piece) + "\"",
                                    .expected = "shares from 0 on and below 1, as in 0.5,0.8"});
    out.push_back(share);
    at = comma + 1;
  }
  return out;
}

}  // namespace

std::vector<std::int64_t> number_list(const std::string& text, const std::string& what) {
  std::vector<std::int64_t> out;
  std::size_t at = 0;
  while (at <= text.size()) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string_view piece = std::string_view(text).substr(at, comma - at);
    const std::size_t dash = piece.find('-', 1);
    const std::int64_t first = number(piece.substr(0, dash), what);
    const std::int64_t last = dash == std::string_view::npos ? first : number(piece.substr(dash + 1), what);
    if (last - first >= 1'000'000) number("a range of more than a million", what);
    for (std::int64_t i = first; i <= last; ++i) out.push_back(i);
    at = comma + 1;
  }
  return out;
}

void add_grid_flags(Options& options, GridFlags& flags) {
  options.texts("--policy", flags.policies, "a preset such as 'snapkv(window=32)', a line, or all; may be repeated");
  options.texts("--budget", flags.budgets, "what is kept: 0.2, 20%, 512t, 64MiB; comma lists");
  options.texts("--removed", flags.removed, "removed shares, by upstream's own arithmetic; comma lists");
  options.texts("--protocol", flags.protocols, "blind (compress before the question) or aware (after it)");
  options.texts("--seq", flags.sequences, "sequences, as in 1,3-5; default: all that have something to measure");
  options.texts("--calib", flags.calibrations, "what kvgrind fit wrote, for policies that need it; may be repeated");
  options.texts("--seed", flags.seeds, "seeds of the random primitives, as in 0,1");
}

replay::Grid grid_of(const GridFlags& flags, replay::Grid base) {
  for (const std::string& path : flags.calibrations) base.calibrations.push_back(traces::read_calibration(path));
  const auto given = [&](const std::string& method) {
    return std::any_of(base.calibrations.begin(), base.calibrations.end(),
                       [&](const auto& calibration) { return calibration->method == method; });
  };
  if (!flags.policies.empty()) base.policies.clear();
  for (const std::string& policy : flags.policies) {
    if (policy != "all") {
      base.policies.push_back(policy);
      continue;
    }
    for (const std::string& name : sim::preset_names()) {  // those that need something fitted only with it
      const std::vector<sim::Signal> signals = sim::needed_signals(*sim::bind_policy(name));
      const auto a_pass = [](sim::Signal signal) { return replay::probe_kind(signal).has_value(); };
      if (!flags.passes && std::any_of(signals.begin(), signals.end(), a_pass)) continue;
      const std::vector<std::string> needed = sim::needed_calibrations(*sim::bind_policy(name));
      if (needed.empty() || std::any_of(needed.begin(), needed.end(), given)) base.policies.push_back(name);
    }
  }
  if (!flags.budgets.empty() || !flags.removed.empty()) base.amounts.clear();
  for (const std::string& list : flags.budgets)
    for (const sim::Amount& amount : sim::parse_amounts(list)) base.amounts.push_back(amount);
  for (const std::string& list : flags.removed)
    for (const double share : removed_shares(list))
      base.amounts.push_back({.kind = sim::Amount::Kind::removed, .value = share});
  if (!flags.protocols.empty()) base.protocols.clear();
  for (const std::string& name : flags.protocols) base.protocols.push_back(replay::protocol_from_name(name));
  if (!flags.sequences.empty()) base.sequences.clear();
  for (const std::string& list : flags.sequences)
    for (const std::int64_t sequence : number_list(list, "--seq")) base.sequences.push_back(sequence);
  if (!flags.seeds.empty()) base.seeds.clear();
  for (const std::string& list : flags.seeds)
    for (const std::int64_t seed : number_list(list, "--seed")) base.seeds.push_back(static_cast<std::uint64_t>(seed));
  if (base.policies.empty() || base.amounts.empty())
    throw Error(Category::usage, {.doing = "reading the command line",
                                  .on = "what to replay",
                                  .found = base.policies.empty() ? "no policy" : "no budget",
                                  .expected = "at least one --policy and one --budget or --removed",
                                  .next = "`kvgrind policies` lists the presets"});
  return base;
}

json::object command_provenance(bool anonymous) {
  json::object out;
  if (anonymous) return out;
  json::array words;
  for (const std::string& word : typed_command()) words.emplace_back(word);
  out["command"] = std::move(words);
  return out;
}

}  // namespace kvgrind::program
