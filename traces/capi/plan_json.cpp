#include "traces/capi/plan_json.h"

#include <fmt/format.h>

#include <limits>

#include "core/error.h"

namespace kvgrind::traces {
namespace {

Error fault(const std::string& place, std::string found, std::string expected) {
  return Error(
      Category::damaged,
      {.doing = "reading a recording plan", .on = place, .found = std::move(found), .expected = std::move(expected)});
}

const json::object& object_at(const json::value& value, std::string_view place) {
  if (!value.is_object()) throw fault(std::string(place), "no object", "an object");
  return value.get_object();
}

std::int64_t whole(const json::object& in, const char* key, std::int64_t fallback, const std::string& place,
                   std::int64_t low = 0, std::int64_t high = std::int64_t{1} << 40) {
  const json::value* value = in.if_contains(key);
  if (!value) return fallback;
  if (!value->is_int64() || value->get_int64() < low || value->get_int64() > high)
    throw fault(place, fmt::format("\"{}\" = {}", key, json_text(*value).substr(0, 40)),
                fmt::format("a whole number in [{}, {}]", low, high));
  return value->get_int64();
}

bool flag(const json::object& in, const char* key, bool fallback, const std::string& place) {
  const json::value* value = in.if_contains(key);
  if (!value) return fallback;
  if (!value->is_bool()) throw fault(place, fmt::format("\"{}\" is neither true nor false", key), "true or false");
  return value->get_bool();
}

std::string text(const json::object& in, const char* key, const char* fallback, const std::string& place) {
  const json::value* value = in.if_contains(key);
  if (!value) return fallback;
  if (!value->is_string()) throw fault(place, fmt::format("\"{}\" is no text", key), "a text");
  return std::string(value->get_string());
}

const json::array* list(const json::object& in, const char* key, const std::string& place) {
  const json::value* value = in.if_contains(key);
  if (!value) return nullptr;
  if (!value->is_array()) throw fault(place, fmt::format("\"{}\" is no list", key), "a list");
  return &value->get_array();
}

void known_keys(const json::object& in, std::initializer_list<std::string_view> keys, const std::string& place) {
  for (const auto& [key, value] : in) {
    bool known = false;
    for (const std::string_view one : keys) known = known || one == std::string_view(key);
    if (!known) throw fault(place, fmt::format("the key \"{}\"", std::string(key)), "known keys only");
  }
}

template <class E>
E chosen(const json::object& in, const char* key, std::initializer_list<std::pair<std::string_view, E>> choices,
         E fallback, const std::string& place) {
  const json::value* value = in.if_contains(key);
  if (!value) return fallback;
  std::string names;
  for (const auto& [name, choice] : choices) {
    if (value->is_string() && std::string_view(value->get_string()) == name) return choice;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  }
  throw fault(place, fmt::format("\"{}\" = {}", key, json_text(*value).substr(0, 40)), "one of " + names);
}

void parse_options(const json::object& in, RecordingPlanJson& plan) {
  const std::string place = "options";
  known_keys(in,
             {"queries", "query_window", "query_sample_share", "fsync", "statistics", "column_sums", "logits",
              "output_projection", "reserve_bytes", "force", "wait", "anonymous"},
             place);
  RecordOptions& o = plan.options;
  o.queries = chosen<QueryContent>(in, "queries",
                                   {{"all", QueryContent::all},
                                    {"window", QueryContent::window},
                                    {"sample", QueryContent::sample},
                                    {"none", QueryContent::none}},
                                   QueryContent::all, place);
  o.fsync = chosen<FsyncMode>(in, "fsync",
                              {{"never", FsyncMode::never}, {"chunk", FsyncMode::chunk}, {"end", FsyncMode::end}},
                              FsyncMode::end, place);
  o.query_window = whole(in, "query_window", o.query_window, place);
  if (const json::value* share = in.if_contains("query_sample_share")) {
    const double value = share->is_double() ? share->get_double() : share->is_int64() ? double(share->get_int64()) : -1;
    if (!(value > 0 && value <= 1)) throw fault(place, "\"query_sample_share\"", "a share in (0, 1]");
    o.query_sample_share = value;
  }
  plan.statistics = flag(in, "statistics", false, place);
  o.column_sums = flag(in, "column_sums", false, place) || plan.statistics;
  o.query_statistics = o.pooled_maps = plan.statistics;
  o.logits_top64 = flag(in, "logits", false, place);
  o.output_projection = flag(in, "output_projection", false, place);
  o.reserve_bytes = whole(in, "reserve_bytes", o.reserve_bytes, place);
  o.force = flag(in, "force", false, place);
  o.anonymous = flag(in, "anonymous", false, place);
  plan.wait = flag(in, "wait", true, place);
}

PlanShape parse_shape(const json::object& card) {
  PlanShape shape;
  shape.layers = whole(card, "layers", 0, "card", 1, 4096);
  shape.query_heads = whole(card, "query_heads", 0, "card", 1, 4096);
  shape.kv_heads = whole(card, "kv_heads", 0, "card", 1, 4096);
  shape.head_dim = whole(card, "head_dim", 0, "card", 1, 8192);
  const auto dtype = dtype_from_name(text(card, "dtype", "", "card"));
  if (!dtype || shape.layers == 0 || shape.query_heads == 0 || shape.kv_heads == 0 || shape.head_dim == 0)
    throw fault("card", "no complete one", "layers, query_heads, kv_heads, head_dim and dtype (f32, f16, bf16)");
  shape.dtype = *dtype;
  return shape;
}

}  // namespace

TokenSequence parse_sequence_json(const json::value& value, const std::string& place) {
  const json::object& in = object_at(value, place);
  known_keys(in, {"ids", "tokens", "decode", "parent", "fork_at", "segments", "spans"}, place);
  TokenSequence out;
  if (const json::array* ids = list(in, "ids", place)) {
    for (const json::value& id : *ids) {
      if (!id.is_int64() || id.get_int64() < -1 || id.get_int64() > std::numeric_limits<std::int32_t>::max())
        throw fault(place, "an id " + json_text(id).substr(0, 40), "token ids");
      out.ids.push_back(static_cast<std::int32_t>(id.get_int64()));
    }
  } else {
    out.ids.assign(static_cast<std::size_t>(whole(in, "tokens", 0, place, 0, std::int64_t{1} << 28)), -1);
  }
  out.decode = whole(in, "decode", 0, place);
  out.parent = whole(in, "parent", -1, place, -1);
  out.fork_at = whole(in, "fork_at", 0, place);
  if (const json::array* segments = list(in, "segments", place))
    for (const json::value& entry : *segments) {
      const json::object& s = object_at(entry, place + ": segments");
      const auto role = role_from_name(text(s, "role", "", place));
      Segment segment{role.value_or(Role::context), whole(s, "begin", 0, place), whole(s, "end", 0, place)};
      if (!role || segment.end < segment.begin)
        throw fault(place + ": segments", json_text(entry).substr(0, 80), "a role, and begin ≤ end");
      out.segments.push_back(segment);
    }
  else if (!out.ids.empty())
    out.segments.push_back({Role::context, out.fork_at, out.fork_at + static_cast<std::int64_t>(out.ids.size())});
  if (const json::array* spans = list(in, "spans", place))
    for (const json::value& entry : *spans) {
      const json::object& s = object_at(entry, place + ": spans");
      Span span{text(s, "kind", "", place), whole(s, "begin", 0, place), whole(s, "end", 0, place),
                text(s, "label", "", place)};
      if (span.kind.empty() || span.end < span.begin)
        throw fault(place + ": spans", json_text(entry).substr(0, 80), "a kind, and begin ≤ end");
      out.spans.push_back(std::move(span));
    }
  return out;
}

RecordingPlanJson parse_plan_json(std::string_view plan_text) {
  const json::value root = parse_json(plan_text, "recording plan");
  const json::object& in = object_at(root, "plan");
  known_keys(in, {"card", "sequences", "spare_sequences", "options", "provenance"}, "plan");
  RecordingPlanJson plan;
  if (!in.contains("card")) throw fault("plan", "no \"card\"", "the model card");
  plan.card = object_at(in.at("card"), "card");
  plan.shape = parse_shape(plan.card);
  if (const json::array* sequences = list(in, "sequences", "plan"))
    for (std::size_t i = 0; i < sequences->size(); ++i)
      plan.sequences.push_back(parse_sequence_json((*sequences)[i], fmt::format("sequence {}", i)));
  plan.spare_sequences = whole(in, "spare_sequences", 0, "plan", 0, 1 << 16);
  if (const json::value* options = in.if_contains("options")) parse_options(object_at(*options, "options"), plan);
  if (const json::value* provenance = in.if_contains("provenance"))
    plan.provenance = object_at(*provenance, "provenance");
  return plan;
}

}  // namespace kvgrind::traces
