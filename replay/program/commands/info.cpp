// kvgrind info: what a trace holds.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <thread>

#include "core/error.h"
#include "replay/program/command.h"
#include "traces/kvt/trace.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string file;
  bool follow = false, trust = false;
};

const char* state_text(traces::TraceState state) {
  switch (state) {
    case traces::TraceState::complete:
      return "complete";
    case traces::TraceState::unfinished:
      return "unfinished";
    case traces::TraceState::truncated_disk_full:
      return "truncated: the disk was full";
    case traces::TraceState::interrupted:
      return "interrupted";
  }
  return "unknown";
}

json::object card_json(const ModelCard& card) {
  json::object out;
  out["family"] = card.family;
  out["name"] = card.name;
  out["layers"] = card.layers;
  out["query_heads"] = card.query_heads;
  out["kv_heads"] = card.kv_heads;
  out["head_dim"] = card.head_dim;
  out["hidden"] = card.hidden;
  out["vocab"] = card.vocab;
  out["max_positions"] = card.max_positions;
  out["dtype"] = std::string(dtype_name(card.dtype));
  out["scale"] = card.scale;
  out["softcap"] = card.softcap;
  out["model_hash"] = card.model_hash;
  out["kv_bytes_per_token"] = card.kv_bytes_per_token();
  return out;
}

json::object sequence_json(const traces::SequenceInfo& sequence) {
  json::object out;
  out["id"] = sequence.id;
  out["parent"] = sequence.parent;
  out["fork_at"] = sequence.fork_at;
  out["tokens"] = sequence.tokens;
  out["own_rows"] = sequence.own_rows;
  json::array segments, spans;
  for (const Segment& segment : sequence.segments)
    segments.push_back(
        {{"role", std::string(role_name(segment.role))}, {"begin", segment.begin}, {"end", segment.end}});
  for (const Span& span : sequence.spans)
    spans.push_back({{"kind", span.kind}, {"begin", span.begin}, {"end", span.end}, {"label", span.label}});
  out["segments"] = std::move(segments);
  out["spans"] = std::move(spans);
  return out;
}

json::array probes_json(const traces::Trace& trace, std::int64_t sequence) {
  json::array out;
  for (const ProbePass& pass : trace.probe_passes(sequence))
    out.push_back({{"kind", std::string(probe_kind_name(pass.kind))},
                   {"number", pass.number},
                   {"begin", pass.begin},
                   {"end", pass.end},
                   {"tokens_fed", pass.fed}});
  return out;
}

// Of sequences that continue no other, by kind.
std::string probes_text(const traces::Trace& trace) {
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> kinds;  // passes, tokens fed
  for (const traces::SequenceInfo& sequence : trace.sequences())
    if (sequence.parent < 0)
      for (const ProbePass& pass : trace.probe_passes(sequence.id)) {
        auto& [passes, fed] = kinds[std::string(probe_kind_name(pass.kind))];
        ++passes;
        fed += pass.fed;
      }
  std::string out;
  for (const auto& [kind, counts] : kinds)
    out += fmt::format("{}{}: {} passes, {} tokens fed", out.empty() ? "" : "; ", kind, counts.first, counts.second);
  return out;
}

json::object info_json(const traces::Trace& trace) {
  json::object body;
  body["file"] = trace.path().string();
  body["state"] = state_text(trace.state());
  body["hash"] = trace.hash();
  body["rows"] = trace.rows();
  body["announced_rows"] = trace.announced_rows();
  body["model"] = card_json(trace.card());
  json::array sequences;
  for (const traces::SequenceInfo& sequence : trace.sequences()) {
    json::object one = sequence_json(sequence);
    one["probes"] = probes_json(trace, sequence.id);
    sequences.push_back(std::move(one));
  }
  body["sequences"] = std::move(sequences);
  const std::vector<std::string> absent = trace.not_recorded();
  body["not_recorded"] = json::array(absent.begin(), absent.end());
  body["probe_bytes"] = trace.probe_bytes();
  body["largest_mass_error"] = trace.largest_mass_error();
  body["provenance"] = trace.provenance();
  return body;
}

std::string info_text(const traces::Trace& trace) {
  const ModelCard& card = trace.card();
  std::string text = fmt::format("{}: {}", trace.path().string(), state_text(trace.state()));
  if (trace.state() != traces::TraceState::complete && trace.announced_rows() > 0)
    text += fmt::format(", {} of {} tokens", trace.rows(), trace.announced_rows());
  text += fmt::format("\nmodel      {} ({}), {} layers, {} query heads, {} KV heads, head dim {}, {}\n", card.name,
                      card.family, card.layers, card.query_heads, card.kv_heads, card.head_dim, dtype_name(card.dtype));
  text += fmt::format("tokens     {} in {} sequences; {} of K and V a token\n", trace.rows(), trace.sequences().size(),
                      bytes_text(static_cast<double>(card.kv_bytes_per_token())));
  if (const std::string probes = probes_text(trace); !probes.empty())
    text += fmt::format("probes     {}; {} in all\n", probes, bytes_text(static_cast<double>(trace.probe_bytes())));
  text += fmt::format("hash       {}\n", trace.hash());
  text += fmt::format("check      largest |sum of attention - 1| seen: {:.2g}\n", trace.largest_mass_error());
  for (const char* key : {"version", "git_hash", "device", "host", "recorded_utc"}) {
    const json::value* value = trace.provenance().if_contains(key);
    if (value)
      text +=
          fmt::format("{:<10} {}\n", key, value->is_string() ? std::string(value->get_string()) : json_text(*value));
  }
  for (const std::string& line : trace.not_recorded()) text += fmt::format("absent     {}\n", line);
  Table table({"sequence", "parent", "fork at", "tokens", "own", "segments", "spans"});
  for (const traces::SequenceInfo& sequence : trace.sequences()) {
    std::string segments;
    for (const Segment& segment : sequence.segments)
      segments +=
          fmt::format("{}{} {}:{}", segments.empty() ? "" : ", ", role_name(segment.role), segment.begin, segment.end);
    table.row({fmt::format("{}", sequence.id), sequence.parent < 0 ? "-" : fmt::format("{}", sequence.parent),
               fmt::format("{}", sequence.fork_at), fmt::format("{}", sequence.tokens),
               fmt::format("{}", sequence.own_rows), segments, fmt::format("{}", sequence.spans.size())});
  }
  return text + table.text();
}

// A recording is NAME.part until it is done.
std::filesystem::path current_path(const std::string& asked) {
  const std::string ending = ".part";
  std::error_code ignored;
  if (std::filesystem::exists(asked, ignored)) return asked;
  if (asked.ends_with(ending)) {
    const std::string done = asked.substr(0, asked.size() - ending.size());
    if (std::filesystem::exists(done, ignored)) return done;
  } else if (std::filesystem::exists(asked + ending, ignored)) {
    return asked + ending;
  }
  return asked;
}

int follow(const Asked& asked, Console& console) {
  std::int64_t seen = -1;
  while (!console.reader_gone()) {
    console.cancel().throw_if_cancelled();
    const auto trace = traces::Trace::open(current_path(asked.file), {.probe = false, .verify_checksums = false});
    if (trace->rows() != seen || trace->state() != traces::TraceState::unfinished) {
      seen = trace->rows();
      if (!console.json()) {
        console.data(fmt::format("{} of {} tokens, {}\n", seen, trace->announced_rows(), state_text(trace->state())));
        console.finish();
      }
    }
    if (trace->state() != traces::TraceState::unfinished) {
      if (console.json()) console.document("info", info_json(*trace));  // one document: what came of it
      break;
    }
    for (int tenth = 0; tenth < 5 && !console.cancel().cancelled(); ++tenth)
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return 0;
}

int run(const Asked& asked, Console& console) {
  if (asked.follow) return follow(asked, console);
  const std::filesystem::path path = current_path(asked.file);
  const auto trace = traces::Trace::open(path, {.probe = !asked.trust, .verify_checksums = true});
  if (trace->state() != traces::TraceState::complete)
    console.warn(
        fmt::format("{} was not closed properly: {} of {} tokens are intact; `kvgrind repair {} -o fixed.kvt` "
                    "makes a clean copy",
                    path.string(), trace->rows(), trace->announced_rows(), path.string()));
  if (console.json())
    console.document("info", info_json(*trace));
  else
    console.data(info_text(*trace));
  return 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positional("file", asked->file, "a trace, finished or not");
  options.flag("--follow", asked->follow, "watch a recording until it ends");
  options.flag("--trust", asked->trust, "skip the first open in a child process");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command info;
const Command info{.name = "info",
                   .place = 20,
                   .summary = "what a trace holds: model, sequences, what was left out",
                   .text = "",
                   .examples = {"kvgrind info run.kvt", "kvgrind info --json run.kvt", "kvgrind info --follow run.kvt"},
                   .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
