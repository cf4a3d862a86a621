#include "sim/engine/bound_policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

#include "core/error.h"

namespace kvgrind::sim {
namespace {

constexpr std::array<const char*, 6> slot_order = {"score", "budget", "select", "act", "schedule", "read"};
constexpr std::array<const char*, 6> slot_default = {"none", "uniform", "topk", "drop", "prefill_end", "all"};

struct Place {
  std::string_view whole;  // the text as typed, for carets
  [[noreturn]] void fail(std::size_t column, const std::string& found, const std::string& expected,
                         const std::string& near = "") const {
    refuse(whole, column, found, expected, near);
  }
};

template <class Row>
RowPtr find_row(const std::vector<const Row*>& rows, const std::string& slot, const Call& call, const Place& place) {
  std::vector<std::string> names;
  for (const Row* row : rows) {
    if (call.name == row->name) return row;
    names.emplace_back(row->name);
  }
  std::sort(names.begin(), names.end());
  place.fail(call.column, fmt::format("{} \"{}\"", slot, call.name), fmt::format("one of {}", fmt::join(names, ", ")),
             nearest_name(call.name, names));
}

RowPtr find_row(const std::string& slot, const Call& call, const Place& place) {
  if (slot == "score") return find_row(score_rows(), slot, call, place);
  if (slot == "budget") return find_row(budget_rows(), slot, call, place);
  if (slot == "select") return find_row(select_rows(), slot, call, place);
  if (slot == "act") return find_row(act_rows(), slot, call, place);
  if (slot == "schedule") return find_row(schedule_rows(), slot, call, place);
  assert(slot == "read");
  return find_row(read_rows(), slot, call, place);
}

std::string kind_text(const ParamRow& row) {
  switch (row.type) {
    case ParamType::integer: {
      const char* whole = row.odd ? "an odd number" : "a whole number";
      if (row.max < 1e300) return fmt::format("{} from {} to {}", whole, number_text(row.min), number_text(row.max));
      if (row.min > -1e300) return fmt::format("{} of at least {}", whole, number_text(row.min));
      return whole;
    }
    case ParamType::number: {
      if (row.max < 1e300) return fmt::format("a number from {} to {}", number_text(row.min), number_text(row.max));
      if (row.min > -1e300) return fmt::format("a number of at least {}", number_text(row.min));
      return "a number";
    }
    case ParamType::boolean:
      return "on or off";
    case ParamType::word:
      return fmt::format("one of {}", fmt::join(row.words, ", "));
    case ParamType::call:
      return fmt::format("a {}", row.words.at(0));
    case ParamType::list:
      return row.words.empty() ? "a [list] of numbers" : fmt::format("a [list] of {}s", row.words[0]);
    case ParamType::text:
      return "a \"text\"";
    case ParamType::calibration:
      return "the \"name\" of what kvgrind fit wrote";
  }
  return "";
}

BoundCall bind_one(const std::string& slot, const Call& call, const Place& place);

// A word stands for a call without arguments where a call is wanted.
BoundCall bind_value(const std::string& slot, const Value& value, const std::string& wanted, const Place& place) {
  if (const auto* call = std::get_if<std::shared_ptr<const Call>>(&value.data)) return bind_one(slot, **call, place);
  if (const auto* word = std::get_if<Value::Word>(&value.data))
    return bind_one(slot, Call{.name = word->text, .arguments = {}, .column = value.column}, place);
  place.fail(value.column, value_text(value), wanted);
}

std::shared_ptr<const Params::Entry> bind_parameter(const ParamRow& row, const Value& value, const Place& place) {
  auto entry = std::make_shared<Params::Entry>();
  entry->row = &row;
  entry->value = value;
  const auto wrong = [&] {
    place.fail(value.column, fmt::format("{}={}", row.name, value_text(value)), kind_text(row));
  };
  switch (row.type) {
    case ParamType::integer:
    case ParamType::number: {
      const auto* number = std::get_if<Value::Number>(&value.data);
      if (!number) wrong();
      entry->number = number->value;
      if (entry->number < row.min || entry->number > row.max) wrong();
      if (row.type == ParamType::integer && entry->number != std::floor(entry->number)) wrong();
      if (row.odd && std::fmod(entry->number, 2) == 0) wrong();
      break;
    }
    case ParamType::boolean: {
      const auto* word = std::get_if<Value::Word>(&value.data);
      if (!word) wrong();
      const bool on = word->text == "on" || word->text == "true", off = word->text == "off" || word->text == "false";
      if (!on && !off) wrong();
      entry->number = on ? 1 : 0;
      entry->value.data = Value::Word{on ? "on" : "off"};
      break;
    }
    case ParamType::word: {
      const auto* word = std::get_if<Value::Word>(&value.data);
      if (!word) wrong();
      const std::vector<std::string> words(row.words.begin(), row.words.end());
      if (std::find(words.begin(), words.end(), word->text) == words.end())
        place.fail(value.column, fmt::format("{}={}", row.name, word->text), kind_text(row),
                   nearest_name(word->text, words));
      break;
    }
    case ParamType::call:
      entry->calls.push_back(bind_value(row.words.at(0), value, kind_text(row), place));
      break;
    case ParamType::list: {
      const auto* list = std::get_if<Value::List>(&value.data);
      if (!list) wrong();
      for (const Value& element : *list) {
        if (!row.words.empty()) {
          entry->calls.push_back(bind_value(row.words[0], element, kind_text(row), place));
          continue;
        }
        const auto* number = std::get_if<Value::Number>(&element.data);
        if (!number || number->value < row.min || number->value > row.max)
          place.fail(element.column, value_text(element), kind_text(row));
        entry->numbers.push_back(number->value);
      }
      break;
    }
    case ParamType::text:
    case ParamType::calibration:
      if (!std::holds_alternative<Value::String>(value.data)) wrong();
      break;
  }
  return entry;
}

Value default_value(const ParamRow& row) {
  // Defaults are written in the grammar; a call with one argument lends its parser.
  return parse_call(fmt::format("d(v={})", row.default_text)).arguments.at(0).value;
}

BoundCall bind_one(const std::string& slot, const Call& call, const Place& place) {
  BoundCall out;
  out.row = find_row(slot, call, place);
  const std::vector<ParamRow>& rows = out.param_rows();
  std::vector<std::string> names;
  for (const ParamRow& row : rows) names.emplace_back(row.name);
  for (const Argument& argument : call.arguments)
    if (std::find(names.begin(), names.end(), argument.key) == names.end())
      place.fail(argument.column, fmt::format("parameter \"{}\"", argument.key),
                 names.empty() ? fmt::format("none: {} takes no parameters", call.name)
                               : fmt::format("one of {} of {}", fmt::join(names, ", "), call.name),
                 nearest_name(argument.key, names));
  for (const ParamRow& row : rows) {
    const auto given = std::find_if(call.arguments.begin(), call.arguments.end(),
                                    [&](const Argument& argument) { return argument.key == row.name; });
    if (given == call.arguments.end() && !row.default_text)
      place.fail(call.column, fmt::format("{} without \"{}\"", call.name, row.name),
                 fmt::format("{}={}", row.name, kind_text(row)));
    const bool own = given != call.arguments.end();
    out.params.entries.push_back(bind_parameter(row, own ? given->value : default_value(row), place));
  }
  return out;
}

// budget=name(keep=0.2): the amount is not part of the policy's identity.
std::optional<Amount> take_amount(Call& call) {
  const auto keep = std::find_if(call.arguments.begin(), call.arguments.end(),
                                 [](const Argument& argument) { return argument.key == "keep"; });
  if (keep == call.arguments.end()) return std::nullopt;
  const Amount amount = parse_amount(value_text(keep->value));
  call.arguments.erase(keep);
  return amount;
}

bool passes_through(const ScoreRow& row) {
  return std::any_of(row.gives.begin(), row.gives.end(),
                     [](const char* given) { return given == std::string_view("*"); });
}

bool gives(const BoundCall& score, std::string_view column) {
  const auto& row = *std::get<const ScoreRow*>(score.row);
  for (const char* given : row.gives)
    if (given == column) return true;
  if (!passes_through(row)) return false;
  for (const auto& entry : score.params.entries)
    for (const BoundCall& inner : entry->calls)
      if (std::holds_alternative<const ScoreRow*>(inner.row) && gives(inner, column)) return true;
  return false;
}

void check_columns(const BoundPolicy& policy, const Place& place) {
  const auto check = [&](const char* slot, const std::string& name, const std::vector<const char*>& columns) {
    for (const char* column : columns)
      if (!gives(policy.score, column))
        place.fail(0, fmt::format("{} {} with score {}", slot, name, policy.score.name()),
                   fmt::format("a score that gives the column \"{}\"", column));
  };
  check("budget", policy.budget.name(), policy.budget_row().columns);
  check("select", policy.select.name(), policy.select_row().columns);
}

// A score that joins groups needs everything that is scored to be its own.
void check_joins(const BoundCall& score, bool outermost, const Place& place) {
  const auto& row = *std::get<const ScoreRow*>(score.row);
  if (row.join && !outermost)
    place.fail(0, fmt::format("score {} within a score that works on its result", row.name),
               fmt::format("{} outermost, without another score around it", row.name));
  for (const auto& entry : score.params.entries)
    for (const BoundCall& inner : entry->calls)
      if (std::holds_alternative<const ScoreRow*>(inner.row))
        check_joins(inner, outermost && passes_through(row), place);
}

}  // namespace

const Params::Entry& Params::entry(std::string_view name) const {
  for (const auto& entry : entries)
    if (name == entry->row->name) return *entry;
  throw std::logic_error("parameter " + std::string(name) + " is not declared");
}
std::int64_t Params::integer(std::string_view name) const { return static_cast<std::int64_t>(entry(name).number); }
double Params::number(std::string_view name) const { return entry(name).number; }
bool Params::boolean(std::string_view name) const { return entry(name).number != 0; }
const std::string& Params::word(std::string_view name) const {
  return std::get<Value::Word>(entry(name).value.data).text;
}
const BoundCall& Params::call(std::string_view name) const { return entry(name).calls.at(0); }
const std::vector<BoundCall>& Params::calls(std::string_view name) const { return entry(name).calls; }
std::vector<double> Params::numbers(std::string_view name) const { return entry(name).numbers; }
const Calibration& Params::calibration(std::string_view name) const {
  const Entry& given = entry(name);
  if (!given.calibration) refuse_without_calibration(given);
  return *given.calibration;
}

void refuse_without_calibration(const Params::Entry& entry) {
  throw Error(Category::usage,
              {.doing = "running policy",
               .found = fmt::format("no signal calibration for parameter \"{}\"", entry.row->name),
               .expected = fmt::format("what kvgrind fit {} wrote for this model", entry.row->words.at(0)),
               .next = fmt::format("kvgrind fit {} TRACE… -o calib.h5, then --calib calib.h5", entry.row->words[0])});
}

std::string BoundCall::name() const {
  return std::visit([](const auto* given) { return std::string(given->name); }, row);
}

const std::vector<ParamRow>& BoundCall::param_rows() const {
  return std::visit([](const auto* given) -> const std::vector<ParamRow>& { return given->params; }, row);
}

std::string BoundCall::text() const {
  std::string out = name();
  for (std::size_t i = 0; i < params.entries.size(); ++i) {
    const Params::Entry& entry = *params.entries[i];
    out += fmt::format("{}{}=", i ? "," : "(", entry.row->name);
    if (entry.row->type == ParamType::call) {
      out += entry.calls[0].text();
    } else if (entry.row->type == ParamType::list && !entry.row->words.empty()) {
      std::vector<std::string> calls;
      for (const BoundCall& call : entry.calls) calls.push_back(call.text());
      out += fmt::format("[{}]", fmt::join(calls, ","));
    } else {
      out += value_text(entry.value);
    }
  }
  return params.entries.empty() ? out : out + ")";
}

std::string BoundPolicy::print() const {
  std::string out;
  const BoundCall* const calls[6] = {&score, &budget, &select, &act, &schedule, &read};
  for (std::size_t i = 0; i < slot_order.size(); ++i)
    out += fmt::format("{}{}={}", i ? " " : "", slot_order[i], calls[i]->text());
  return out;
}

void refuse(std::string_view whole, std::size_t column, const std::string& found, const std::string& expected,
            const std::string& near) {
  const std::string hint = near.empty() ? "here" : fmt::format("did you mean \"{}\"?", near);
  throw Error(Category::usage, {.doing = "reading policy",
                                .found = fmt::format("{} at column {}", found, column + 1),
                                .expected = expected,
                                .next = hint + caret_text(whole, column)});
}

Value check_value(const ParamRow& row, const Value& value, std::string_view whole) {
  return bind_parameter(row, value, Place{whole})->value;
}

BoundCall bind_call(const std::string& slot, const Call& call, std::string_view whole) {
  return bind_one(slot, call, Place{whole});
}

BoundPolicy bind_line(std::string_view text) {
  const Place place{text};
  PolicyLine line = parse_policy_line(text);
  BoundPolicy out;
  out.typed = std::string(text);
  BoundCall* const calls[6] = {&out.score, &out.budget, &out.select, &out.act, &out.schedule, &out.read};
  for (std::size_t i = 0; i < slot_order.size(); ++i) {
    const std::string slot = slot_order[i];
    const auto given =
        std::find_if(line.slots.begin(), line.slots.end(), [&](const auto& entry) { return entry.first == slot; });
    Call call{.name = slot_default[i], .arguments = {}, .column = 0};
    if (given != line.slots.end()) call = given->second;
    if (slot == "budget") out.amount = take_amount(call);
    *calls[i] = bind_one(slot, call, place);
  }
  out.canonical = out.print();
  check_columns(out, place);
  check_joins(out.score, true, place);
  return out;
}

}  // namespace kvgrind::sim
