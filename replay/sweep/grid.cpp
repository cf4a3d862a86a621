#include "replay/sweep/grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "core/error.h"
#include "core/policy_line.h"
#include "traces/calibration/calibration_file.h"

namespace kvgrind::replay {
namespace {

const std::vector<std::string> grid_keys = {"policies", "budgets", "removed", "protocols", "sequences", "seeds"};

[[noreturn]] void bad(const std::string& where, const std::string& key, const std::string& found,
                      const std::string& expected, const std::string& next = "") {
  throw Error(Category::usage, {.doing = "reading the grid",
                                .on = fmt::format("{}: key `{}`", where, key),
                                .found = found,
                                .expected = expected,
                                .next = next});
}

const json::array& list(const json::value& value, const std::string& where, const std::string& key) {
  if (!value.is_array()) bad(where, key, "no list", "a list");
  return value.as_array();
}

std::uint64_t whole(const json::value& value, const std::string& where, const std::string& key) {
  if (value.is_uint64()) return value.as_uint64();
  if (value.is_int64() && value.as_int64() >= 0) return static_cast<std::uint64_t>(value.as_int64());
  bad(where, key, json_text(value), "whole numbers from 0");
}

json::value amount_json(const sim::Amount& amount) {
  if (amount.kind == sim::Amount::Kind::fraction || amount.kind == sim::Amount::Kind::removed) return amount.value;
  return json::value(amount.text());
}

}  // namespace

Grid grid_from_json(const json::object& object, const std::string& where) {
  Grid grid;
  for (const auto& [name, value] : object) {
    const std::string key(name);
    if (std::find(grid_keys.begin(), grid_keys.end(), key) == grid_keys.end()) {
      const std::string near = nearest_name(key, grid_keys);
      bad(where, key, "an unknown key", fmt::format("one of {}", fmt::join(grid_keys, ", ")),
          near.empty() ? "" : fmt::format("did you mean `{}`?", near));
    }
    for (const json::value& item : list(value, where, key)) {
      if (key == "policies") {
        if (!item.is_string()) bad(where, key, json_text(item), "policy texts");
        grid.policies.emplace_back(item.as_string());
      } else if (key == "budgets") {
        if (item.is_number()) {
          grid.amounts.push_back(sim::parse_amount(number_text(item.to_number<double>())));
        } else if (item.is_string()) {
          grid.amounts.push_back(sim::parse_amount(std::string_view(item.as_string())));
        } else {
          bad(where, key, json_text(item), "numbers or texts such as \"512t\"");
        }
      } else if (key == "removed") {
        if (!item.is_number() || !(item.to_number<double>() >= 0 && item.to_number<double>() < 1))
          bad(where, key, json_text(item), "shares in [0, 1)");
        grid.amounts.push_back({.kind = sim::Amount::Kind::removed, .value = item.to_number<double>()});
      } else if (key == "protocols") {
        if (!item.is_string()) bad(where, key, json_text(item), "blind or aware");
        grid.protocols.push_back(protocol_from_name(std::string_view(item.as_string())));
      } else if (key == "sequences") {
        grid.sequences.push_back(static_cast<std::int64_t>(whole(item, where, key)));
      } else {
        grid.seeds.push_back(whole(item, where, key));
      }
    }
  }
  return grid;
}

Grid grid_from_text(std::string_view text, const std::string& where) {
  const json::value value = parse_json(text, where);
  if (!value.is_object()) bad(where, "(all)", "no object", "an object with policies, budgets, …");
  return grid_from_json(value.as_object(), where);
}

json::object grid_to_json(const Grid& grid) {
  json::array policies, budgets, removed, protocols, sequences, seeds;
  for (const std::string& policy : grid.policies) policies.emplace_back(policy);
  for (const sim::Amount& amount : grid.amounts)
    (amount.kind == sim::Amount::Kind::removed ? removed : budgets).push_back(amount_json(amount));
  for (const Protocol protocol : grid.protocols) protocols.emplace_back(protocol_name(protocol));
  for (const std::int64_t sequence : grid.sequences) sequences.emplace_back(sequence);
  for (const std::uint64_t seed : grid.seeds) seeds.emplace_back(seed);
  return {{"policies", policies},   {"budgets", budgets},     {"removed", removed},
          {"protocols", protocols}, {"sequences", sequences}, {"seeds", seeds}};
}

Grid grid_from_runs(const std::vector<json::object>& runs, const std::string& where) {
  for (const json::object& run : runs)
    if (const json::value* grid = run.if_contains("grid"); grid && grid->is_object())
      return grid_from_json(grid->as_object(), where);
  throw Error(Category::usage, {.doing = "taking the grid of an earlier sweep",
                                .on = where,
                                .found = "no run row with a grid",
                                .expected = "a file that sweep wrote"});
}

Grid resolve_grid(const Grid& grid, const RecordedRun& run) {
  Grid out = grid;
  if (out.policies.empty())
    throw Error(Category::usage, {.doing = "resolving the grid",
                                  .found = "no policy",
                                  .expected = "at least one",
                                  .next = "`kvgrind policies` lists them"});
  for (const std::string& policy : out.policies) (void)sim::bind_policy(policy);
  if (out.amounts.empty()) out.amounts = sim::parse_amounts("0.2");
  // Budgets before removed shares, as grid_to_json writes them: numbers are stable over a round trip.
  std::stable_partition(out.amounts.begin(), out.amounts.end(),
                        [](const sim::Amount& a) { return a.kind != sim::Amount::Kind::removed; });
  if (out.protocols.empty()) out.protocols = {Protocol::blind};
  if (out.seeds.empty()) out.seeds = {0};
  if (out.sequences.empty()) {
    std::vector<std::int64_t> all;
    for (const traces::SequenceInfo& info : run.sequences()) {
      all.push_back(info.id);
      if (compression_moment(info.segments, info.tokens, Protocol::blind) < info.tokens)
        out.sequences.push_back(info.id);
    }
    if (out.sequences.empty()) out.sequences = all;
    if (out.sequences.empty())
      throw Error(
          Category::usage,
          {.doing = "resolving the grid", .on = "the recording", .found = "no sequence", .expected = "at least one"});
  }
  for (const std::int64_t sequence : out.sequences) (void)find_sequence(run, sequence);
  return out;
}

sim::PolicyPtr calibrated_policy(const std::string& text,
                                 const std::vector<std::shared_ptr<const Calibration>>& calibrations) {
  return sim::with_calibrations(sim::bind_policy(text), [&](const std::string& method, const std::string& name) {
    std::shared_ptr<const Calibration> found;
    if (!name.empty()) {
      found = traces::read_calibration(name);
      return found->method == method ? found : nullptr;
    }
    for (const auto& given : calibrations)
      if (given->method == method) found = given;
    return found;
  });
}

std::vector<SweepJob> list_jobs(const Grid& resolved) {
  std::vector<SweepJob> jobs;
  for (const std::string& typed : resolved.policies) {
    const sim::PolicyPtr policy = calibrated_policy(typed, resolved.calibrations);
    for (const sim::Amount& amount : resolved.amounts)
      for (const Protocol protocol : resolved.protocols)
        for (const std::uint64_t seed : resolved.seeds)
          for (const std::int64_t sequence : resolved.sequences)
            jobs.push_back({.number = static_cast<std::int64_t>(jobs.size()),
                            .typed = typed,
                            .policy = policy,
                            .amount = amount,
                            .protocol = protocol,
                            .seed = seed,
                            .sequence = sequence});
  }
  return jobs;
}

std::string job_text(const SweepJob& job) {
  const bool removed = job.amount.kind == sim::Amount::Kind::removed;
  return fmt::format("{}: {} {} {} --protocol {} --seq {} --seed {}", job.number, job.typed,
                     removed ? "--removed" : "--budget", removed ? number_text(job.amount.value) : job.amount.text(),
                     protocol_name(job.protocol), job.sequence, job.seed);
}

Shard parse_shard(std::string_view text) {
  const auto number = [&](std::string_view part) {
    std::int64_t value = -1;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    return error == std::errc() && end == part.data() + part.size() ? value : -1;
  };
  const std::size_t slash = text.find('/');
  Shard out{-1, 0};
  if (slash != std::string_view::npos) out = {number(text.substr(0, slash)), number(text.substr(slash + 1))};
  if (out.index < 0 || out.count < 1 || out.index >= out.count)
    throw Error(Category::usage, {.doing = "reading --shard",
                                  .found = fmt::format("`{}`", text),
                                  .expected = "i/n with 0 ≤ i < n, such as 0/4"});
  return out;
}

}  // namespace kvgrind::replay
