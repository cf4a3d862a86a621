// The model card and the header as JSON blobs of the file.
#include <fmt/format.h>

#include <cmath>

#include "traces/kvt/schema.h"

namespace kvgrind::traces {
namespace {

// Field access that names the place of every fault.
class Reader {
 public:
  Reader(const json::value& value, std::string on) : on_(std::move(on)) {
    if (!value.is_object()) fault("no JSON object", "an object");
    object_ = &value.get_object();
  }
  const json::value& at(const char* key) const {
    const auto it = object_->find(key);
    if (it == object_->end()) fault(fmt::format("no key \"{}\"", key), "it present");
    return it->value();
  }
  bool has(const char* key) const { return object_->contains(key); }
  std::string text(const char* key) const {
    const json::value& value = at(key);
    if (!value.is_string()) fault(fmt::format("\"{}\" is no text", key), "a text");
    return std::string(value.get_string());
  }
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    const json::value& value = at(key);
    if (!value.is_int64() || value.get_int64() < low || value.get_int64() > high)
      fault(fmt::format("\"{}\" = {}", key, json_text(value).substr(0, 40)),
            fmt::format("a whole number in [{}, {}]", low, high));
    return value.get_int64();
  }
  float real(const char* key) const { return number(at(key), key); }
  float number(const json::value& value, const char* key) const {
    double out = NAN;
    if (value.is_double()) out = value.get_double();
    if (value.is_int64()) out = static_cast<double>(value.get_int64());
    if (value.is_uint64()) out = static_cast<double>(value.get_uint64());
    if (!std::isfinite(out) || std::fabs(out) > 3.4e38)
      fault(fmt::format("\"{}\" holds no finite number", key), "finite numbers");
    return static_cast<float>(out);
  }
  const json::array& list(const char* key, std::size_t most) const {
    const json::value& value = at(key);
    if (!value.is_array() || value.get_array().size() > most)
      fault(fmt::format("\"{}\" is no list of at most {}", key, most), "such a list");
    return value.get_array();
  }
  bool flag(const char* key) const {
    const json::value& value = at(key);
    if (!value.is_bool()) fault(fmt::format("\"{}\" is neither true nor false", key), "true or false");
    return value.get_bool();
  }
  [[noreturn]] void fault(const std::string& found, const std::string& expected) const {
    throw hdf5::read_fault(on_, found, expected);
  }

 private:
  const json::object* object_ = nullptr;
  std::string on_;
};

json::array float_list(const std::vector<float>& values) {
  json::array out;
  for (const float v : values) out.emplace_back(static_cast<double>(v));
  return out;
}

struct Flag {
  const char* name;
  bool Content::*member;
};
constexpr Flag flags[] = {{"queries", &Content::queries},
                          {"column_sums", &Content::column_sums},
                          {"query_statistics", &Content::query_statistics},
                          {"pooled_maps", &Content::pooled_maps},
                          {"logits_top64", &Content::logits_top64},
                          {"output_projection", &Content::output_projection},
                          {"text", &Content::text}};

}  // namespace

json::object card_json(const ModelCard& card) {
  json::object out;
  out["family"] = card.family;
  out["name"] = card.name;
  out["layers"] = card.layers;
  out["query_heads"] = card.query_heads;
  out["kv_heads"] = card.kv_heads;
  out["head_dim"] = card.head_dim;
  out["hidden"] = card.hidden;
  out["intermediate"] = card.intermediate;
  out["vocab"] = card.vocab;
  out["max_positions"] = card.max_positions;
  out["dtype"] = std::string(dtype_name(card.dtype));
  if (card.cache_dtype) out["cache_dtype"] = std::string(dtype_name(*card.cache_dtype));
  out["scale"] = static_cast<double>(card.scale);
  out["softcap"] = static_cast<double>(card.softcap);
  json::array rope, layer;
  for (const RopeSet& set : card.rope) {
    json::object entry;
    entry["type"] = set.type;
    entry["pairing"] = "half_split";
    entry["attention_factor"] = static_cast<double>(set.attention_factor);
    entry["inv_freq"] = float_list(set.inv_freq);
    rope.push_back(std::move(entry));
  }
  for (const LayerCard& one : card.layer) {
    json::object entry;
    entry["window"] = one.window;
    entry["rope_set"] = one.rope_set;
    layer.push_back(std::move(entry));
  }
  out["rope"] = std::move(rope);
  out["layer"] = std::move(layer);
  out["sinks"] = float_list(card.sinks);
  out["model_hash"] = card.model_hash;
  return out;
}

ModelCard parse_card(const json::value& value, const std::string& on) {
  const Reader in(value, on);
  constexpr std::int64_t big = std::int64_t{1} << 31;
  ModelCard card;
  card.family = in.text("family");
  card.name = in.text("name");
  card.layers = in.integer("layers", 1, 4096);
  card.query_heads = in.integer("query_heads", 1, 4096);
  card.kv_heads = in.integer("kv_heads", 1, 4096);
  card.head_dim = in.integer("head_dim", 1, 8192);
  card.hidden = in.integer("hidden", 0, big);
  card.intermediate = in.integer("intermediate", 0, big);
  card.vocab = in.integer("vocab", 0, big);
  card.max_positions = in.integer("max_positions", 0, std::int64_t{1} << 40);
  const auto dtype = [&in](const char* key) {
    const std::string name = in.text(key);
    if (!dtype_from_name(name)) in.fault(fmt::format("{} \"{}\"", key, name), "f32, f16 or bf16");
    return *dtype_from_name(name);
  };
  card.dtype = dtype("dtype");
  if (in.has("cache_dtype")) card.cache_dtype = dtype("cache_dtype");
  card.scale = in.real("scale");
  card.softcap = in.real("softcap");
  if (card.query_heads % card.kv_heads != 0)
    in.fault(fmt::format("{} query heads for {} KV heads", card.query_heads, card.kv_heads), "a multiple");
  for (const json::value& entry : in.list("rope", 64)) {
    const Reader set(entry, on + ": rope");
    if (set.text("pairing") != "half_split") set.fault("pairing \"" + set.text("pairing") + "\"", "half_split");
    RopeSet one{.type = set.text("type"), .inv_freq = {}, .attention_factor = set.real("attention_factor")};
    for (const json::value& f : set.list("inv_freq", 4096)) one.inv_freq.push_back(set.number(f, "inv_freq"));
    if (one.rotary_dim() > card.head_dim) set.fault("more frequencies than half the head", "at most head_dim / 2");
    card.rope.push_back(std::move(one));
  }
  for (const json::value& entry : in.list("layer", 4096)) {
    const Reader one(entry, on + ": layer");
    card.layer.push_back(
        {.window = one.integer("window", 0, big),
         .rope_set = static_cast<int>(
             one.integer("rope_set", 0, card.rope.empty() ? 0 : static_cast<std::int64_t>(card.rope.size()) - 1))});
  }
  if (static_cast<std::int64_t>(card.layer.size()) != card.layers)
    in.fault(fmt::format("{} layer entries", card.layer.size()), fmt::format("{}", card.layers));
  for (const json::value& s : in.list("sinks", 1u << 24)) card.sinks.push_back(in.number(s, "sinks"));
  if (!card.sinks.empty() && static_cast<std::int64_t>(card.sinks.size()) != card.layers * card.query_heads)
    in.fault(fmt::format("{} sinks", card.sinks.size()), "one a layer and query head, or none");
  card.model_hash = in.text("model_hash");
  return card;
}

json::object header_json(const Layout& layout, const json::object& queries) {
  json::object out, content;
  for (const Flag& flag : flags) content[flag.name] = layout.content.*flag.member;
  if (layout.content.probes) content["probes"] = true;
  out["content"] = std::move(content);
  out["announced_rows"] = layout.announced_rows;
  out["chunk_rows"] = layout.chunk_rows;
  out["output_projection_dtype"] = layout.output_element == hdf5::Element::f32   ? "f32"
                                   : layout.output_element == hdf5::Element::f16 ? "f16"
                                                                                 : "bf16";
  out["queries"] = queries;
  return out;
}

void parse_header(const json::value& value, const std::string& on, Layout& layout) {
  const Reader in(value, on);
  const Reader content(in.at("content"), on + ": content");
  for (const Flag& flag : flags) layout.content.*flag.member = content.flag(flag.name);
  layout.content.probes = content.has("probes") && content.flag("probes");
  layout.announced_rows = in.integer("announced_rows", 0, std::int64_t{1} << 40);
  layout.chunk_rows = in.integer("chunk_rows", 1, std::int64_t{1} << 26);
  const std::string dtype = in.text("output_projection_dtype");
  if (!dtype_from_name(dtype)) in.fault("dtype \"" + dtype + "\"", "f32, f16 or bf16");
  layout.output_element = element_of(*dtype_from_name(dtype));
}

}  // namespace kvgrind::traces
