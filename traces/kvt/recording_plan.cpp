#include "traces/kvt/recording_plan.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "core/hash.h"
#include "core/version.h"
#include "traces/kvt/attention_sums.h"

namespace kvgrind::traces {
namespace {

// Words that are absolute paths become their last part.
std::string without_paths(const std::string& text) {
  std::string out, word;
  const auto flush = [&] {
    out +=
        !word.empty() && word.find('/') != std::string::npos ? std::filesystem::path(word).filename().string() : word;
    word.clear();
  };
  for (const char c : text) {
    if (c == ' ' || c == '=' || c == '\'' || c == '"' || c == ',') {
      flush();
      out += c;
    } else {
      word += c;
    }
  }
  flush();
  return out;
}

json::value without_paths(const json::value& value) {
  if (value.is_string()) return json::value(without_paths(std::string(value.get_string())));
  if (value.is_array()) {
    json::array out;
    for (const json::value& v : value.get_array()) out.push_back(without_paths(v));
    return out;
  }
  if (value.is_object()) {
    json::object out;
    for (const auto& [key, v] : value.get_object()) out[key] = without_paths(v);
    return out;
  }
  return value;
}

json::object complete_provenance(const json::object& given, bool anonymous) {
  json::object out = anonymous ? without_paths(given).get_object() : given;
  out["version"] = version();
  out["git_hash"] = git_hash();
  const std::time_t now = std::time(nullptr);
  out["recorded_utc"] = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now));
  if (anonymous) {
    out.erase("host");
    out.erase("user");
    return out;
  }
  char host[256] = {};
  if (gethostname(host, sizeof host - 1) == 0) out["host"] = host;
  if (const passwd* user = getpwuid(geteuid())) out["user"] = user->pw_name;
  return out;
}

Error plan_fault(const std::string& found, const std::string& expected) {
  return Error(Category::usage, {.doing = "planning a recording", .on = "", .found = found, .expected = expected});
}

void check_plan(const Recorder::Plan& plan) {
  const ModelCard& card = plan.card;
  parse_card(card_json(card), "the model card");
  for (std::size_t s = 0; s < plan.sequences.size(); ++s) {
    const TokenSequence& one = plan.sequences[s];
    if (one.parent >= static_cast<std::int64_t>(s) || one.parent < -1 || one.fork_at < 0 ||
        (one.parent < 0 && one.fork_at != 0) || one.decode < 0)
      throw plan_fault(fmt::format("sequence {} with parent {} and fork at {}", s, one.parent, one.fork_at),
                       "a parent announced before it, or −1 and 0");
  }
}

}  // namespace

std::vector<Segment> recorded_segments_of(const TokenSequence& sequence) {
  std::vector<Segment> out = sequence.segments;
  if (out.size() > recorded_segments) out.resize(recorded_segments);
  return out;
}

std::int64_t announced_rows_of(const TokenSequence& sequence) {
  return static_cast<std::int64_t>(sequence.ids.size()) + std::max<std::int64_t>(0, sequence.decode - 1);
}

std::string not_recorded_text(const std::vector<std::string>& list) {
  json::array out;
  for (const std::string& line : list) out.emplace_back(line);
  std::string text = json_text(out);
  while (static_cast<std::int64_t>(text.size()) > not_recorded_bytes) {
    const std::size_t left = out.size();
    out.resize(left > 1 ? left - 2 : 0);
    out.emplace_back(fmt::format("and {} more", list.size() - out.size()));
    text = json_text(out);
  }
  return text;
}

FileStart plan_file(const Recorder::Plan& plan, const RecordOptions& options, std::vector<std::string>& not_recorded) {
  check_plan(plan);
  const ModelCard& card = plan.card;
  FileStart start;
  Layout& layout = start.layout;
  layout.card = card;
  layout.content = {.queries = options.queries != QueryContent::none,
                    .column_sums = options.column_sums,
                    .query_statistics = options.query_statistics,
                    .pooled_maps = options.pooled_maps,
                    .logits_top64 = options.logits_top64,
                    .output_projection = false,
                    .text = plan.token_bytes != nullptr,
                    .probes = plan.probes > 0};
  layout.announced_probes = plan.probes;
  layout.announced_probe_rows = plan.probe_rows;
  layout.announced_sequences = static_cast<std::int64_t>(plan.sequences.size());

  const auto add_name = [&](const std::string& text) {
    const std::size_t known = text.empty() ? 0 : start.names.find(text);
    if (known != std::string::npos) return static_cast<std::uint64_t>(known);
    start.names += text;
    return static_cast<std::uint64_t>(start.names.size() - text.size());
  };
  bool many_segments = false;
  for (std::size_t s = 0; s < plan.sequences.size(); ++s) {
    const TokenSequence& one = plan.sequences[s];
    const std::int64_t id = static_cast<std::int64_t>(s), rows = announced_rows_of(one);
    const QueryChoice choice(options, one, id);
    const std::int64_t own = static_cast<std::int64_t>(one.ids.size());
    for (std::int64_t i = 0; i < rows; ++i) layout.announced_queries += choice.keeps(one.fork_at + i, i >= own) ? 1 : 0;
    if (plan.token_bytes)
      for (const std::int32_t token : one.ids)
        layout.announced_text_bytes += static_cast<std::int64_t>(plan.token_bytes(token).size());
    layout.announced_rows += rows;
    const std::vector<Segment> recorded = recorded_segments_of(one);
    many_segments = many_segments || one.segments.size() > recorded.size();
    for (const Segment& segment : recorded) layout.announced_block_rows += segment.end;
    layout.announced_block_rows += one.fork_at + own;
    layout.announced_blocks += static_cast<std::int64_t>(recorded.size()) + 1;
    layout.announced_statistics += static_cast<std::int64_t>(recorded.size()) + (rows > own ? 1 : 0);
    const std::int64_t end = one.fork_at + rows, cell = map_cell_tokens(end);
    layout.announced_map_bytes += card.layers * card.query_heads * triangle((end + cell - 1) / cell);

    Row row{};
    row[sequence_column::id] = s;
    row[sequence_column::parent] = static_cast<std::uint64_t>(one.parent);
    row[sequence_column::fork_at] = static_cast<std::uint64_t>(one.fork_at);
    row[sequence_column::first_row] = static_cast<std::uint64_t>(-1);
    row[sequence_column::announced] = static_cast<std::uint64_t>(own);
    row[sequence_column::decode] = static_cast<std::uint64_t>(one.decode);
    row[sequence_column::next_token] = static_cast<std::uint64_t>(-1);
    row[sequence_column::first_segment] = start.segments.size();
    row[sequence_column::segments] = one.segments.size();
    row[sequence_column::first_span] = start.spans.size();
    row[sequence_column::spans] = one.spans.size();
    start.sequences.push_back(row);
    for (const Segment& segment : one.segments)
      start.segments.push_back({s, static_cast<std::uint64_t>(segment.role), static_cast<std::uint64_t>(segment.begin),
                                static_cast<std::uint64_t>(segment.end)});
    for (const Span& span : one.spans)
      start.spans.push_back({s, static_cast<std::uint64_t>(span.begin), static_cast<std::uint64_t>(span.end),
                             add_name(span.kind), span.kind.size(), add_name(span.label), span.label.size()});
  }
  if (plan.token_bytes && layout.announced_rows > 0)  // generated tokens: about as long as the given ones
    layout.announced_text_bytes += layout.announced_rows / 100;
  layout.chunk_rows = token_chunk_rows(card, layout.announced_rows);
  layout.announced_commits = layout.announced_sequences + layout.announced_rows / layout.chunk_rows;

  if (options.queries == QueryContent::none) not_recorded.push_back("queries: not asked for");
  if (options.queries == QueryContent::window)
    not_recorded.push_back(
        fmt::format("queries: only the last {} of each segment, answers and decoded tokens", options.query_window));
  if (options.queries == QueryContent::sample)
    not_recorded.push_back(
        fmt::format("queries: a sample of {} and the last {} of each segment, answers, decoded tokens",
                    options.query_sample_share, options.query_window));
  if (!options.column_sums) not_recorded.push_back("column sums: not asked for");
  if (!options.query_statistics) not_recorded.push_back("query statistics: not asked for");
  if (!options.pooled_maps) not_recorded.push_back("pooled attention maps: not asked for");
  if (!options.logits_top64) not_recorded.push_back("reference log-probabilities and NLL: not asked for");
  if (!plan.token_bytes) not_recorded.push_back("text of the tokens: no tokenizer");
  if (many_segments && (options.column_sums || options.query_statistics))
    not_recorded.push_back(fmt::format(
        "column sums and query statistics of segments after the first {} of a sequence (the total holds them)",
        recorded_segments));
  if (!card.sinks.empty()) not_recorded.push_back("largest mass error: the model has attention sinks");

  // W_O: at most 5 % of the file, in the weights' dtype where that is exact.
  if (!options.output_projection || !plan.output_projection) {
    not_recorded.push_back(options.output_projection ? "output projection: not given"
                                                     : "output projection: not asked for");
  } else {
    const std::int64_t width = card.query_heads * card.head_dim, element = size_bytes(card.dtype);
    const DType narrow = card.charged_dtype();
    const std::int64_t w_o = card.layers * card.hidden * width * size_bytes(narrow);
    const std::int64_t file = layout.announced_rows * card.layers * card.kv_heads * 2 * card.head_dim * element +
                              layout.announced_queries * card.layers * width * element + w_o;
    if (w_o > file / 20) {
      not_recorded.push_back(
          fmt::format("output projection: {:.0f} % of the file, above 5 % (give the model to the replay instead)",
                      100.0 * static_cast<double>(w_o) / static_cast<double>(file)));
    } else {
      layout.content.output_projection = true;
      layout.output_element = element_of(narrow);
      std::vector<std::byte> stored(static_cast<std::size_t>(card.hidden * width * 4));
      std::vector<float> back(static_cast<std::size_t>(card.hidden * width));
      for (std::int64_t l = 0; l < card.layers && layout.output_element != hdf5::Element::f32; ++l) {
        const Array<float, 2> weights = plan.output_projection(l);
        if (weights.size() != card.hidden * width)
          throw plan_fault(fmt::format("an output projection of {} elements", weights.size()),
                           fmt::format("[{}, {}]", card.hidden, width));
        from_f32(narrow, weights.data(), weights.size(), stored.data());
        to_f32(narrow, stored.data(), weights.size(), back.data());
        if (!std::equal(back.begin(), back.end(), weights.data())) layout.output_element = hdf5::Element::f32;
      }
      const DType dtype = layout.output_element == hdf5::Element::f32 ? DType::f32 : narrow;
      start.output_projection = [get = plan.output_projection, dtype, n = card.hidden * width](std::int64_t l,
                                                                                               void* out) {
        const Array<float, 2> weights = get(l);
        if (weights.size() != n)
          throw plan_fault(fmt::format("an output projection of {} elements", weights.size()), fmt::format("{}", n));
        from_f32(dtype, weights.data(), n, out);
      };
    }
  }

  static constexpr const char* kinds[] = {"all", "window", "sample", "none"};
  json::object queries;
  queries["kind"] = kinds[static_cast<int>(options.queries)];
  queries["window"] = options.query_window;
  queries["sample_share"] = options.query_sample_share;
  start.card = json_text(card_json(card));
  start.header = json_text(header_json(layout, queries));
  start.provenance = json_text(complete_provenance(plan.provenance, options.anonymous));
  start.not_recorded = not_recorded_text(not_recorded);
  return start;
}

}  // namespace kvgrind::traces
