// kvgrind policies: the presets, their cards, and the primitives that lines are made of.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "core/error.h"
#include "replay/open_loop/open_source.h"
#include "replay/program/command.h"
#include "sim/engine/policy.h"
#include "sim/engine/primitive.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string name, count, needs, grep, schedule, tag, fidelity, protocol, uses, trace;
  bool primitives = false, table = false;
  std::shared_ptr<const replay::OpenSource> source;  // of the trace
};

const char* count_name(sim::CountClass count) {
  switch (count) {
    case sim::CountClass::exact:
      return "exact";
    case sim::CountClass::at_most:
      return "at_most";
    case sim::CountClass::threshold:
      return "threshold";
    case sim::CountClass::fixed:
      return "fixed";
  }
  return "";
}

struct Entry {
  sim::MethodCard card;
  sim::PolicyPtr policy;
};

std::vector<std::string> signal_names(const sim::BoundPolicy& policy) {
  std::vector<std::string> names;
  for (const sim::Signal signal : sim::needed_signals(policy)) names.emplace_back(sim::signal_name(signal));
  return names;
}

std::string card_text_of(const Entry& entry, const char* key) {
  const json::value* value = entry.card.data.if_contains(key);
  return value && value->is_string() ? std::string(value->as_string()) : std::string{};
}

// "window_attention" in any slot, or "score=window_attention" in that one; nested calls count.
bool uses(const sim::BoundPolicy& policy, const std::string& asked) {
  const std::string& line = sim::canonical_line(policy);
  const std::size_t equals = asked.find('=');
  std::string text = line, name = asked;
  if (equals != std::string::npos) {
    name = asked.substr(equals + 1);
    const std::size_t begin = line.find(asked.substr(0, equals + 1));
    if (begin == std::string::npos) return false;
    text = line.substr(begin, line.find(' ', begin) - begin);
  }
  const auto part_of_name = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const std::size_t end = at + name.size();
    if (at > 0 && text[at - 1] == '=' && (end == text.size() || !part_of_name(text[end]))) return true;
  }
  return false;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

std::string plain(const json::value& value) {
  return value.is_string() ? std::string(value.get_string()) : json_text(value);
}

std::string schedule_of(const sim::BoundPolicy& policy) {
  return sim::one_shot(policy) ? "once" : sim::needs_steps(policy) ? "every step" : "chunks";
}

json::object entry_json(const Entry& entry) {
  json::object out;
  out["name"] = entry.card.name;
  out["line"] = sim::canonical_line(*entry.policy);
  out["hash"] = sim::policy_hash(*entry.policy);
  out["count_class"] = count_name(sim::count_class(*entry.policy));
  out["decides"] = schedule_of(*entry.policy);
  const std::vector<std::string> needs = signal_names(*entry.policy);
  out["needs"] = json::array(needs.begin(), needs.end());
  const std::vector<std::string> fits = sim::needed_calibrations(*entry.policy);
  out["fitted_by"] = json::array(fits.begin(), fits.end());
  out["card"] = entry.card.data;
  return out;
}

// The protocol of the paper's own tables, in a word; what is known from where follows the colon.
std::string protocol_of(const Entry& entry) {
  const std::string text = card_text_of(entry, "protocol");
  return text.substr(0, text.find(':'));
}

bool wanted(const Entry& entry, const Asked& asked) {
  if (!asked.count.empty() && asked.count != count_name(sim::count_class(*entry.policy))) return false;
  if (!asked.schedule.empty() && (asked.schedule == "once") != sim::one_shot(*entry.policy)) return false;
  const std::vector<std::string> needs = signal_names(*entry.policy);
  if (!asked.needs.empty() && std::find(needs.begin(), needs.end(), asked.needs) == needs.end()) return false;
  if (!asked.tag.empty() && asked.tag != card_text_of(entry, "tag")) return false;
  if (!asked.fidelity.empty() && asked.fidelity != card_text_of(entry, "fidelity")) return false;
  if (!asked.protocol.empty() && asked.protocol != protocol_of(entry)) return false;
  if (!asked.uses.empty() && !uses(*entry.policy, asked.uses)) return false;
  if (asked.source)
    for (const sim::Signal signal : sim::needed_signals(*entry.policy))
      if (!asked.source->has(signal)) return false;
  const std::string all =
      lower(entry.card.name + " " + sim::canonical_line(*entry.policy) + json_text(entry.card.data));
  return asked.grep.empty() || all.find(lower(asked.grep)) != std::string::npos;
}

// What a preset card says, key by key.
std::string card_text(const Entry& entry) {
  std::string text = fmt::format("{}\n  line: {}\n  hash: {}\n  count class: {}\n  decides: {}\n", entry.card.name,
                                 sim::canonical_line(*entry.policy), sim::policy_hash(*entry.policy),
                                 count_name(sim::count_class(*entry.policy)), schedule_of(*entry.policy));
  const std::vector<std::string> needs = signal_names(*entry.policy);
  text +=
      fmt::format("  needs: {}\n", needs.empty() ? "keys and values only" : fmt::format("{}", fmt::join(needs, ", ")));
  const std::vector<std::string> fits = sim::needed_calibrations(*entry.policy);
  if (!fits.empty()) text += fmt::format("  fitted by: kvgrind fit {}\n", fmt::join(fits, " or "));
  for (const auto& field : entry.card.data) {
    const std::string key(field.key());
    if (key == "name") continue;
    if (const json::object* inner = field.value().if_object()) {
      text += fmt::format("  {}:\n", key);
      for (const auto& item : *inner) text += fmt::format("    {}: {}\n", std::string(item.key()), plain(item.value()));
    } else if (const json::array* list = field.value().if_array()) {
      text += fmt::format("  {}:\n", key);
      for (const json::value& item : *list) text += fmt::format("    {}\n", plain(item));
    } else {
      text += fmt::format("  {}: {}\n", key, plain(field.value()));
    }
  }
  return text;
}

// The table of the guide's page extend.md.
std::string markdown_table(const std::vector<Entry>& entries) {
  std::string text =
      "| method | what it does | checked | loop | count | needs | paper's protocol | source |\n"
      "|---|---|---|---|---|---|---|---|\n";
  for (const Entry& entry : entries) {
    std::vector<std::string> needs = signal_names(*entry.policy);
    for (const std::string& fit : sim::needed_calibrations(*entry.policy)) needs.push_back("`kvgrind fit " + fit + "`");
    std::string source;
    if (const json::value* given = entry.card.data.if_contains("source"); given && given->is_object()) {
      const auto part = [&](const char* key) {
        const json::value* value = given->as_object().if_contains(key);
        return value && value->is_string() ? std::string(value->as_string()) : std::string{};
      };
      source = !part("arxiv").empty()        ? "arXiv " + part("arxiv")
               : !part("repository").empty() ? part("repository")
                                             : part("title");
    }
    text +=
        fmt::format("| `{}` | {} | {} | {} | {} | {} | {} | {} |\n", entry.card.name, card_text_of(entry, "help"),
                    card_text_of(entry, "tag"), card_text_of(entry, "fidelity"),
                    count_name(sim::count_class(*entry.policy)), fmt::join(needs, ", "), protocol_of(entry), source);
  }
  return text;
}

struct PrimitiveEntry {
  std::string slot, name, help, source, params;
};
template <class Row>
void add_primitives(const char* slot, const std::vector<const Row*>& rows, std::vector<PrimitiveEntry>& out) {
  for (const Row* row : rows) {
    std::string params;
    for (const sim::ParamRow& param : row->params)
      params += fmt::format("{}{}{}", params.empty() ? "" : ", ", param.name,
                            param.default_text ? fmt::format("={}", param.default_text) : " (required)");
    out.push_back({slot, row->name, row->help, row->source, params});
  }
}

int print_primitives(Console& console) {
  std::vector<PrimitiveEntry> all;
  add_primitives("score", sim::score_rows(), all);
  add_primitives("budget", sim::budget_rows(), all);
  add_primitives("select", sim::select_rows(), all);
  add_primitives("act", sim::act_rows(), all);
  add_primitives("schedule", sim::schedule_rows(), all);
  add_primitives("read", sim::read_rows(), all);
  if (console.json()) {
    json::array list;
    for (const PrimitiveEntry& entry : all)
      list.push_back({{"slot", entry.slot},
                      {"name", entry.name},
                      {"help", entry.help},
                      {"source", entry.source},
                      {"parameters", entry.params}});
    console.document("primitives", {{"primitives", std::move(list)}});
    return 0;
  }
  Table table({"slot", "name", "parameters", "what it does"});
  for (const PrimitiveEntry& entry : all) table.row({entry.slot, entry.name, entry.params, entry.help});
  console.data(table.text());
  return 0;
}

int run(Asked asked, Console& console) {
  if (asked.primitives) return print_primitives(console);
  if (!asked.trace.empty()) {
    const auto recorded = replay::recorded_run(traces::Trace::open(asked.trace));
    if (recorded->sequences().empty())
      throw Error(
          Category::usage,
          {.doing = "looking up policies", .on = asked.trace, .found = "no sequence", .expected = "at least one"});
    asked.source = std::make_shared<const replay::OpenSource>(recorded, recorded->sequences().back().id);
  }
  std::vector<Entry> entries;
  for (const sim::MethodCard& card : sim::method_cards()) {
    if (!asked.name.empty() && card.name != asked.name) continue;
    Entry entry{card, sim::bind_policy(card.name)};
    if (!asked.name.empty() || wanted(entry, asked)) entries.push_back(std::move(entry));
  }
  if (!asked.name.empty() && entries.empty()) {
    const std::string near = nearest_name(asked.name, sim::preset_names());
    throw Error(Category::usage, {.doing = "looking up the preset",
                                  .on = asked.name,
                                  .found = "no preset of that name",
                                  .expected = near.empty() ? "a preset" : "perhaps " + near,
                                  .next = "`kvgrind policies` lists them"});
  }
  if (console.json()) {
    json::array list;
    for (const Entry& entry : entries) list.push_back(entry_json(entry));
    console.document("policies", {{"policies", std::move(list)}});
  } else if (asked.table) {
    console.data(markdown_table(entries));
  } else if (!asked.name.empty()) {
    console.data(card_text(entries.front()));
  } else {
    Table table({"name", "count", "decides", "line"});
    for (const Entry& entry : entries)
      table.row({entry.card.name, count_name(sim::count_class(*entry.policy)), schedule_of(*entry.policy),
                 sim::canonical_line(*entry.policy)});
    console.data(table.text());
  }
  return 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positional("name", asked->name, "show this preset's card", Need::optional);
  options.choice("--count", asked->count, {"", "exact", "at_most", "threshold", "fixed"}, "only this count class");
  options.choice("--decides", asked->schedule, {"", "once", "again"},
                 "only those that decide once, or again and again");
  options.text("--needs", asked->needs, "only those that need this signal, such as queries");
  options.choice("--tag", asked->tag, {"", "V", "V-port", "M", "own"}, "only those checked in this way");
  options.choice("--fidelity", asked->fidelity, {"", "OL", "OL~", "CL"},
                 "only those that the open loop shows faithfully, given the recording, or not");
  options.choice(
      "--protocol", asked->protocol,
      {"", "question-blind", "question-aware", "multi-turn", "while generating", "no questions", "not stated"},
      "only those whose paper compressed then, as far as the card says");
  options.text("--uses", asked->uses, "only those with this primitive, such as topk or score=window_attention");
  options.text("--trace", asked->trace, "only those whose signals this trace has");
  options.text("--grep", asked->grep, "only those whose name, line or card holds this text");
  options.flag("--table", asked->table, "as the table of the guide, in Markdown");
  options.flag("--primitives", asked->primitives, "the primitives of every slot, with their parameters");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command policies;
const Command policies{
    .name = "policies",
    .place = 35,
    .summary = "the presets, their cards, and the primitives of the policy line",
    .text =
        "Count classes: exact keeps the budget to the token, at_most stays below it, threshold\n"
        "depends on the data, fixed has a size of its own.",
    .examples = {"kvgrind policies", "kvgrind policies snapkv", "kvgrind policies --count exact --decides once --json",
                 "kvgrind policies --uses score=window_attention --tag V --fidelity OL",
                 "kvgrind policies --trace run.kvt", "kvgrind policies --primitives"},
    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
