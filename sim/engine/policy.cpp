#include "sim/engine/policy.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/methods.h"

namespace kvgrind::sim {
namespace {

void add_signals(const BoundCall& call, std::vector<Signal>& out) {
  std::visit(
      [&](const auto* row) {
        if constexpr (requires { row->needs; })
          for (const Signal signal : row->needs)
            if (std::find(out.begin(), out.end(), signal) == out.end()) out.push_back(signal);
      },
      call.row);
  for (const auto& entry : call.params.entries)
    for (const BoundCall& inner : entry->calls) add_signals(inner, out);
}

// reduce=none keeps query heads apart, so that each needs slots of its own.
bool splits_heads(const BoundCall& call) {
  for (const auto& entry : call.params.entries) {
    const auto* word = std::get_if<Value::Word>(&entry->value.data);
    if (word && word->text == "none" && std::string_view(entry->row->name) == "reduce") return true;
    for (const BoundCall& inner : entry->calls)
      if (splits_heads(inner)) return true;
  }
  return false;
}

template <class Visit>
void each_calibration(const BoundCall& call, Visit&& visit) {
  for (const auto& entry : call.params.entries) {
    if (entry->row->type == ParamType::calibration) visit(*entry);
    for (const BoundCall& inner : entry->calls) each_calibration(inner, visit);
  }
}
template <class Visit>
void each_calibration(const BoundPolicy& policy, Visit&& visit) {
  for (const BoundCall* call : {&policy.score, &policy.budget, &policy.select, &policy.act, &policy.read})
    each_calibration(*call, visit);
}

void attach(BoundCall& call, const FindCalibration& find) {
  for (auto& entry : call.params.entries) {
    if (entry->row->type != ParamType::calibration && entry->calls.empty()) continue;
    auto own = std::make_shared<Params::Entry>(*entry);
    for (BoundCall& inner : own->calls) attach(inner, find);
    if (own->row->type == ParamType::calibration) {
      const std::string name = std::get<Value::String>(own->value.data).text;
      for (const char* method : own->row->words)
        if (!own->calibration) own->calibration = find(method, name);
      if (own->calibration) own->value.data = Value::String{own->calibration->hash()};
    }
    entry = std::move(own);
  }
}

}  // namespace

PolicyPtr with_calibrations(const PolicyPtr& policy, const FindCalibration& find) {
  if (needed_calibrations(*policy).empty()) return policy;
  auto out = std::make_shared<BoundPolicy>(*policy);
  for (BoundCall* call : {&out->score, &out->budget, &out->select, &out->act, &out->read}) attach(*call, find);
  out->canonical = out->print();
  return out;
}

std::vector<std::string> needed_calibrations(const BoundPolicy& policy) {
  std::vector<std::string> out;
  each_calibration(policy, [&](const Params::Entry& entry) {
    for (const char* method : entry.row->words)
      if (std::find(out.begin(), out.end(), method) == out.end()) out.emplace_back(method);
  });
  return out;
}

void check_calibrations(const BoundPolicy& policy, const ModelCard& card) {
  each_calibration(policy, [&](const Params::Entry& entry) {
    if (!entry.calibration) refuse_without_calibration(entry);
    const std::string model = calibration_model(card);
    if (entry.calibration->model != model)
      throw Error(Category::usage,
                  {.doing = "running policy",
                   .on = typed_text(policy),
                   .found = fmt::format("a calibration of model {}", entry.calibration->model),
                   .expected = fmt::format("one of this model, {}", model),
                   .next = fmt::format("kvgrind fit {} on recordings of this model", entry.calibration->method)});
  });
}

std::string_view signal_name(Signal signal) {
  switch (signal) {
    case Signal::queries:
      return "queries";
    case Signal::column_sums:
      return "column_sums";
    case Signal::query_statistics:
      return "query_statistics";
    case Signal::future_queries:
      return "future_queries";
    case Signal::hidden_norm:
      return "hidden_norm";
    case Signal::attention_input_norm:
      return "attention_input_norm";
    case Signal::output_projection:
      return "output_projection";
    case Signal::segments:
      return "segments";
    case Signal::spans:
      return "spans";
    case Signal::repeat_probe:
      return "repeat_probe";
    case Signal::reread_probe:
      return "reread_probe";
    case Signal::episode_probe:
      return "episode_probe";
  }
  return "unknown";
}

std::string_view count_class_name(CountClass count) {
  switch (count) {
    case CountClass::exact:
      return "exact";
    case CountClass::at_most:
      return "at_most";
    case CountClass::threshold:
      return "threshold";
    case CountClass::fixed:
      return "fixed";
  }
  return "unknown";
}

std::vector<ProbeColumns> SignalSource::probes(std::int64_t layer, std::int64_t head, Signal kind) const {
  const std::string_view name = signal_name(kind);
  throw Error(Category::usage, {.doing = fmt::format("reading signal {}", name),
                                .on = fmt::format("layer {}, query head {}", layer, head),
                                .found = "no such pass over the context",
                                .expected = "a recording with one",
                                .next = fmt::format("record with --probes {}", name.substr(0, name.find('_')))});
}

PolicyPtr bind_policy(std::string_view text, const std::vector<MethodCard>& own_methods) {
  if (looks_like_line(text)) return std::make_shared<const BoundPolicy>(bind_line(text));
  const Call call = parse_call(text);
  const std::vector<MethodCard> cards = method_cards();
  std::vector<std::string> names;
  for (const auto* list : {&own_methods, &cards})
    for (const MethodCard& card : *list) {
      names.push_back(card.name);
      if (card.name != call.name) continue;
      const Method method = read_method(card);
      BoundPolicy policy = bind_line(expand(method, call, text));
      policy.typed = std::string(text);
      policy.declared_count = method.count;
      policy.approximated = method.open_loop;
      return std::make_shared<const BoundPolicy>(std::move(policy));
    }
  std::sort(names.begin(), names.end());
  refuse(text, call.column, fmt::format("policy \"{}\"", call.name),
         fmt::format("one of {}, or a line such as score=key_norm", fmt::join(names, ", ")),
         nearest_name(call.name, names));
}

PolicyPtr bind_policy(std::string_view text) { return bind_policy(text, {}); }

const std::string& canonical_line(const BoundPolicy& policy) { return policy.canonical; }
std::string policy_hash(const BoundPolicy& policy) { return hex(hash_text(policy.canonical)); }
const std::string& typed_text(const BoundPolicy& policy) { return policy.typed; }

const std::string& approximated(const BoundPolicy& policy) { return policy.approximated; }

CountClass count_class(const BoundPolicy& policy) {
  if (policy.declared_count) return *policy.declared_count;
  // The weakest promise of the slots that decide counts.
  CountClass count = std::max(policy.budget_row().count, policy.select_row().count);
  if (policy.budget_row().count == CountClass::fixed || policy.select_row().count == CountClass::fixed)
    count = CountClass::fixed;
  return count;
}

std::vector<Signal> needed_signals(const BoundPolicy& policy) {
  std::vector<Signal> out;
  for (const BoundCall* call : {&policy.score, &policy.budget, &policy.act, &policy.read}) add_signals(*call, out);
  return out;
}

bool one_shot(const BoundPolicy& policy) { return policy.schedule_row().one_shot; }
bool needs_steps(const BoundPolicy& policy) { return policy.schedule_row().steps || !policy.read_row().reads_all; }

bool reads_all(const BoundPolicy& policy) { return policy.read_row().reads_all; }

std::int64_t wanted_chunk(const BoundPolicy& policy) {
  for (const auto& entry : policy.schedule.params.entries)
    if (std::string_view(entry->row->name) == "size") return static_cast<std::int64_t>(entry->number);
  return 0;
}

Granularity cache_granularity(const BoundPolicy& policy) {
  return splits_heads(policy.score) ? Granularity::query_head : Granularity::kv_head;
}

std::optional<Amount> amount_in_line(const BoundPolicy& policy) { return policy.amount; }

}  // namespace kvgrind::sim
