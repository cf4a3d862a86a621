#include "tests/support/random_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "sim/engine/primitive.h"

namespace kvgrind::tests {
namespace {

using sim::ParamRow;
using sim::ParamType;

std::size_t below(std::mt19937_64& rng, std::size_t n) { return static_cast<std::size_t>(rng() % n); }
bool once_in(std::mt19937_64& rng, std::uint64_t n) { return rng() % n == 0; }
double unit(std::mt19937_64& rng) { return std::uniform_real_distribution<double>(0, 1)(rng); }

template <class Row>
const Row* named(const std::vector<const Row*>& rows, const std::string& name, std::mt19937_64& rng) {
  if (name.empty()) return rows[below(rng, rows.size())];
  return *std::find_if(rows.begin(), rows.end(), [&](const Row* row) { return name == row->name; });
}

struct Picked {
  std::string name;
  const std::vector<ParamRow>* params;
};
Picked pick(std::mt19937_64& rng, const std::string& slot, const std::string& name) {
  const auto of = [&](const auto& rows) {
    const auto* row = named(rows, name, rng);
    return Picked{row->name, &row->params};
  };
  if (slot == "score") return of(sim::score_rows());
  if (slot == "budget") return of(sim::budget_rows());
  if (slot == "select") return of(sim::select_rows());
  if (slot == "act") return of(sim::act_rows());
  if (slot == "schedule") return of(sim::schedule_rows());
  return of(sim::read_rows());
}

// Mostly of the size that tells slots of short texts apart, now and then an end of the declared range.
std::string integer_text(std::mt19937_64& rng, const ParamRow& row) {
  const double low = std::max(row.min, -64.0), high = std::min(row.max, low + 48);
  double value = low + std::floor(unit(rng) * (high - low + 1));
  if (once_in(rng, 12)) value = row.min > -1e300 ? row.min : 0;
  // The far end only where it is a count of slots or a width: positions ahead are summed one by one.
  if (once_in(rng, 16)) value = std::min(row.max, 65536.0);
  value = std::clamp(value, std::max(row.min, -1e9), row.max);
  if (row.odd && std::fmod(value, 2) == 0) value += value + 1 <= row.max ? 1 : -1;
  return fmt::format("{}", static_cast<std::int64_t>(value));
}

std::string number_text(std::mt19937_64& rng, const ParamRow& row) {
  const double low = std::max(row.min, -4.0), high = std::min(row.max, std::max(low, 0.0) + 4);
  double value = low + unit(rng) * (high - low);
  if (once_in(rng, 8)) value = low;
  if (once_in(rng, 8)) value = high;
  return fmt::format("{}", value);
}

std::string value_text(std::mt19937_64& rng, const ParamRow& row, int depth) {
  switch (row.type) {
    case ParamType::integer:
      return integer_text(rng, row);
    case ParamType::number:
      return number_text(rng, row);
    case ParamType::boolean:
      return rng() % 2 ? "on" : "off";
    case ParamType::word:
      return row.words[below(rng, row.words.size())];
    case ParamType::call:
      return random_call(rng, row.words.at(0), depth - 1);
    case ParamType::list: {
      std::string out;
      for (std::size_t n = 1 + below(rng, 3); n > 0; --n)
        out += (out.empty() ? "" : ",") +
               (row.words.empty() ? number_text(rng, row) : random_call(rng, row.words[0], depth - 1));
      return "[" + out + "]";
    }
    case ParamType::text:
    case ParamType::calibration:
      break;
  }
  return "\"\"";
}

template <class Row>
void add_columns(const std::vector<const Row*>& rows, const std::string& name, std::vector<std::string>& out) {
  for (const Row* row : rows)
    if (name == row->name) out.insert(out.end(), row->columns.begin(), row->columns.end());
}

// A score that gives the first of those columns.
std::string giving(std::mt19937_64& rng, const std::vector<std::string>& columns) {
  std::vector<std::string> able;
  for (const sim::ScoreRow* row : sim::score_rows())
    if (std::find(row->gives.begin(), row->gives.end(), columns[0]) != row->gives.end()) able.emplace_back(row->name);
  return able.empty() ? "" : able[below(rng, able.size())];
}

}  // namespace

std::string random_call(std::mt19937_64& rng, const std::string& slot, int depth, const std::string& name) {
  const auto nests = [](const ParamRow& row) { return row.type == ParamType::call || !row.default_text; };
  Picked picked = pick(rng, slot, name);
  while (depth <= 0 && std::any_of(picked.params->begin(), picked.params->end(), nests)) picked = pick(rng, slot, "");
  std::string arguments;
  for (const ParamRow& row : *picked.params) {
    if (row.default_text && once_in(rng, 3)) continue;
    arguments += fmt::format("{}{}={}", arguments.empty() ? "" : ",", row.name, value_text(rng, row, depth));
  }
  return arguments.empty() ? picked.name : picked.name + "(" + arguments + ")";
}

std::string random_line(std::mt19937_64& rng) {
  std::string budget = random_call(rng, "budget", 1), select = random_call(rng, "select", 1);
  if (once_in(rng, 4)) budget = random_call(rng, "budget", 1, "uniform");
  if (once_in(rng, 4)) select = random_call(rng, "select", 1, "topk");
  std::vector<std::string> columns;
  add_columns(sim::budget_rows(), budget.substr(0, budget.find('(')), columns);
  add_columns(sim::select_rows(), select.substr(0, select.find('(')), columns);
  std::string score;
  if (!columns.empty() && !once_in(rng, 4)) score = giving(rng, columns);
  return fmt::format("score={} budget={} select={} act={} schedule={} read={}", random_call(rng, "score", 2, score),
                     budget, select, random_call(rng, "act", 2), random_call(rng, "schedule", 1),
                     random_call(rng, "read", 1));
}

}  // namespace kvgrind::tests
