#include "traces/results/result_row.h"

#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "core/json_words.h"

namespace kvgrind::traces {
namespace {

[[noreturn]] void bad(const std::string& where, const std::string& key, const std::string& found,
                      const std::string& expected) {
  throw Error(Category::damaged, {.doing = "reading a result row",
                                  .on = fmt::format("{}: key `{}`", where, key),
                                  .found = found,
                                  .expected = expected});
}

json::value number_or_null(double value) { return std::isfinite(value) ? json::value(value) : json::value(nullptr); }

class Reader {
 public:
  Reader(const json::object& object, const std::string& where) : object_(object), where_(where) {}

  const json::value* find(std::string_view key) {
    seen_.emplace_back(key);
    return object_.if_contains(key);
  }
  std::string text(std::string_view key, const std::string& fallback = {}) {
    const json::value* value = find(key);
    if (!value) return fallback;
    if (!value->is_string()) bad(where_, std::string(key), json_words(*value), "a text");
    return std::string(value->as_string());
  }
  double number(std::string_view key, double fallback) {
    const json::value* value = find(key);
    if (!value || value->is_null()) return fallback;
    if (!value->is_number()) bad(where_, std::string(key), json_words(*value), "a number");
    return value->to_number<double>();
  }
  std::int64_t integer(std::string_view key, std::int64_t fallback) {
    const json::value* value = find(key);
    if (!value || value->is_null()) return fallback;
    if (value->is_int64()) return value->as_int64();
    bad(where_, std::string(key), value->is_number() ? "a fraction" : json_words(*value), "a whole number");
  }
  std::uint64_t unsigned_integer(std::string_view key) {
    const json::value* value = find(key);
    if (!value || value->is_null()) return 0;
    if (value->is_uint64()) return value->as_uint64();
    if (value->is_int64() && value->as_int64() >= 0) return static_cast<std::uint64_t>(value->as_int64());
    bad(where_, std::string(key), json_words(*value), "a whole number from 0");
  }
  std::optional<double> maybe_number(std::string_view key) {
    const json::value* value = find(key);
    if (!value || value->is_null()) return std::nullopt;
    if (!value->is_number()) bad(where_, std::string(key), json_words(*value), "a number");
    return value->to_number<double>();
  }
  bool seen(std::string_view key) const {
    for (const std::string& name : seen_)
      if (name == key) return true;
    return false;
  }

 private:
  const json::object& object_;
  const std::string& where_;
  std::vector<std::string> seen_;
};

Metric metric_from_json(const json::value& value, const std::string& where, const std::string& name) {
  if (!value.is_object()) bad(where, "metrics." + name, json_words(value), "an object with `value`");
  const std::string place = where + ", metric " + name;
  Reader reader(value.as_object(), place);
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  Metric metric;
  metric.value = reader.number("value", nan);
  metric.lo = reader.number("lo", nan);
  metric.hi = reader.number("hi", nan);
  metric.n = reader.integer("n", 0);
  metric.kind = reader.text("kind", "exact");
  if (metric.kind != "exact" && metric.kind != "estimated" && metric.kind != "modelled")
    bad(place, "kind", "`" + metric.kind + "`", "exact, estimated or modelled");
  return metric;
}

}  // namespace

json::object to_json(const ResultRow& row) {
  json::object out;
  out["type"] = "result";
  out["status"] = row.status;
  if (!row.message.empty()) out["message"] = row.message;
  out["loop"] = row.loop;
  out["job"] = row.job;
  out["trace"] = row.trace;
  out["sequence"] = row.sequence;
  out["context"] = row.context;
  out["policy"] = row.policy;
  out["hash"] = row.hash;
  out["preset"] = row.preset;
  out["budget_asked"] = row.budget_asked;
  if (row.budget_keep) out["budget_keep"] = *row.budget_keep;
  if (row.budget_removed) out["budget_removed"] = *row.budget_removed;
  out["protocol"] = row.protocol;
  out["seed"] = row.seed;
  if (row.status == "ok") {
    out["kept_tokens_mean"] = number_or_null(row.kept_tokens_mean);
    out["kept_tokens_min"] = row.kept_tokens_min;
    out["kept_tokens_max"] = row.kept_tokens_max;
    out["kept_frac"] = number_or_null(row.kept_frac);
    out["stored_frac"] = number_or_null(row.stored_frac);
    out["touched_frac"] = number_or_null(row.touched_frac);
    json::object metrics;
    for (const auto& [name, metric] : row.metrics)
      metrics[name] = json::object{{"value", number_or_null(metric.value)},
                                   {"lo", number_or_null(metric.lo)},
                                   {"hi", number_or_null(metric.hi)},
                                   {"n", metric.n},
                                   {"kind", metric.kind}};
    out["metrics"] = std::move(metrics);
  }
  for (const auto& [key, value] : row.more) out[key] = value;
  return out;
}

ResultRow result_row_from_json(const json::object& object, const std::string& where) {
  Reader reader(object, where);
  ResultRow row;
  if (const std::string type = reader.text("type"); type != "result")
    bad(where, "type", type.empty() ? "nothing" : "`" + type + "`", "`result`");
  row.status = reader.text("status", "ok");
  if (row.status != "ok" && row.status != "error") bad(where, "status", "`" + row.status + "`", "ok or error");
  row.message = reader.text("message");
  row.loop = reader.text("loop", "open");
  row.job = reader.integer("job", 0);
  row.trace = reader.text("trace");
  row.sequence = reader.integer("sequence", 0);
  row.context = reader.integer("context", row.sequence);
  row.policy = reader.text("policy");
  row.hash = reader.text("hash");
  row.preset = reader.text("preset", row.policy);
  row.budget_asked = reader.text("budget_asked");
  row.budget_keep = reader.maybe_number("budget_keep");
  row.budget_removed = reader.maybe_number("budget_removed");
  row.protocol = reader.text("protocol");
  row.seed = reader.unsigned_integer("seed");
  row.kept_tokens_mean = reader.number("kept_tokens_mean", 0);
  row.kept_tokens_min = reader.integer("kept_tokens_min", 0);
  row.kept_tokens_max = reader.integer("kept_tokens_max", 0);
  row.kept_frac = reader.number("kept_frac", 1);
  row.stored_frac = reader.number("stored_frac", 1);
  row.touched_frac = reader.number("touched_frac", 1);
  if (const json::value* metrics = reader.find("metrics")) {
    if (!metrics->is_object()) bad(where, "metrics", json_words(*metrics), "an object");
    for (const auto& [name, value] : metrics->as_object())
      row.metrics[std::string(name)] = metric_from_json(value, where, std::string(name));
  }
  for (const auto& [key, value] : object)
    if (!reader.seen(key)) row.more[key] = value;
  return row;
}

std::string job_key(const ResultRow& row) {
  return fmt::format("{}|{}|{}|{}|{}|{}|{}", row.loop, row.trace, row.sequence,
                     row.hash.empty() ? row.preset : row.hash, row.budget_asked, row.protocol, row.seed);
}

}  // namespace kvgrind::traces
