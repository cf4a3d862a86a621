// kvgrind repair: a clean copy of what is committed and undamaged. Never edits in place.
#include <fmt/format.h>

#include <algorithm>

#include "core/hash.h"
#include "traces/kvt/file_writer.h"
#include "traces/kvt/probe.h"
#include "traces/kvt/recording_plan.h"
#include "traces/kvt/segments.h"
#include "traces/kvt/trace_state.h"

namespace kvgrind::traces {
namespace {

using Axis = Trace::State::Axis;

struct Outcome {
  std::int64_t rows = 0, tok = 0, seg = 0, map = 0, probe = 0;
  std::vector<std::string> lost;
};

// Every slice of one tok commit, read (and so verified) and handed on.
template <class Group, class Rows>
void each_slice(const Trace::State& s, const Row& commit, Group&& group, Rows&& small) {
  const ModelCard& card = s.layout.card;
  const std::int64_t first = signed_at(commit, commit_column::first_row), n = signed_at(commit, commit_column::rows);
  const std::int64_t q0 = signed_at(commit, commit_column::first_query), qn = signed_at(commit, commit_column::queries);
  for (std::int64_t l = 0; l < card.layers; ++l) {
    for (std::int64_t h = 0; h < card.kv_heads; ++h) {
      group("k", l, h, first, n, s.slice("k", Axis::rows, first, n, l, h, s.columns.k(l, h)));
      group("v", l, h, first, n, s.slice("v", Axis::rows, first, n, l, h, s.columns.v(l, h)));
    }
    if (s.layout.content.queries)
      for (std::int64_t h = 0; h < card.query_heads; ++h)
        group("q", l, h, q0, qn, s.slice("q", Axis::queries, q0, qn, l, h, s.columns.q(l, h)));
    group("lse", l, std::int64_t{0}, first, n, s.slice("lse", Axis::rows, first, n, l, 0, s.columns.lse(l)));
  }
  for (int i = 0; i < small_count; ++i) {
    const Small which = static_cast<Small>(i);
    if (!has_small(s.layout.content, which)) continue;
    const int column = which == Small::q_row  ? commit_column::first_query
                       : which == Small::text ? commit_column::first_byte
                                              : commit_column::first_row;
    const std::int64_t count = signed_at(commit, column + 1);
    small(which, count, s.small(which, signed_at(commit, column), count));
  }
}

// Tok commits before the first with a damaged slice.
std::int64_t sound_prefix(const Trace::State& s, Outcome& outcome) {
  for (std::size_t i = 0; i < s.commits.tok.size(); ++i) {
    try {
      each_slice(
          s, s.commits.tok[i], [](auto&&...) {}, [](auto&&...) {});
    } catch (const Error& error) {
      outcome.lost.push_back(fmt::format("tokens from row {} on: {}", outcome.rows, error.what()));
      return static_cast<std::int64_t>(i);
    }
    outcome.rows += signed_at(s.commits.tok[i], commit_column::rows);
  }
  return static_cast<std::int64_t>(s.commits.tok.size());
}

FileStart copied_start(const Trace::State& s) {
  FileStart start;
  start.layout = s.layout;
  Layout& layout = start.layout;
  layout.announced_rows = s.commits.rows;
  layout.announced_queries = s.commits.queries;
  layout.announced_text_bytes = s.commits.bytes;
  layout.announced_sequences = static_cast<std::int64_t>(s.parts.size());
  layout.announced_commits = static_cast<std::int64_t>(s.commits.tok.size());
  if (layout.content.column_sums) {
    layout.announced_blocks = s.at("colsum_index").extents[0];
    layout.announced_block_rows = s.at("colsum").extents[0];
  }
  if (layout.content.query_statistics) layout.announced_statistics = s.at("qstat_index").extents[0];
  if (layout.content.probes) {
    layout.announced_probes = s.at("probe_index").extents[0];
    layout.announced_probe_rows = s.at("probe").extents[0];
  }
  if (layout.content.pooled_maps) layout.announced_map_bytes = s.at("map_max").extents[0];
  start.card = s.card_text;
  start.header = read_text_blob(s.file, "header", true);
  start.provenance = read_text_blob(s.file, "provenance", true);
  start.names = read_text_blob(s.file, "names", true);
  std::int64_t segments = 0, spans = 0;
  for (std::int64_t i = 0; i < s.at("sequence").extents[0]; ++i) {
    Row row;
    hdf5::read_rows(s.at("sequence"), i, 1, row.data());
    if (!sealed(row) || row[sequence_column::done] != 0) break;
    segments += signed_at(row, sequence_column::segments);
    spans += signed_at(row, sequence_column::spans);
    start.sequences.push_back(row);
  }
  start.segments = s.table("segment", 0, segments);
  start.spans = s.table("span", 0, spans);
  start.output_projection = [&s](std::int64_t layer, void* out) {
    const std::vector<std::byte> bytes = read_output_projection(s, layer);
    std::copy(bytes.begin(), bytes.end(), static_cast<std::byte*>(out));
  };
  return start;
}

// Rows of a dataset up to `end` at the same places, whatever they hold.
void copy_up_to(const Trace::State& s, FileWriter& file, const char* name, std::int64_t end) {
  const hdf5::Dataset& from = s.at(name);
  const std::int64_t piece =
      std::max<std::int64_t>(1, (std::int64_t{16} << 20) / std::max<std::int64_t>(from.row_bytes, 1));
  for (std::int64_t first = file.rows(name); first < end;) {
    const std::int64_t n = std::min(piece, end - first);
    std::vector<std::byte> bytes(static_cast<std::size_t>(n * from.row_bytes));
    hdf5::read_rows(from, first, n, bytes.data());
    file.append(name, n, bytes.data());
    first += n;
  }
}

void copy_sequence(const Trace::State& s, FileWriter& file, const SequenceParts& one) {
  const Row& commit = *one.seg;
  const Row row = s.table("sequence", signed_at(commit, commit_column::sequence_row), 1)[0];
  copy_up_to(s, file, "sequence", signed_at(commit, commit_column::sequence_row) + 1);
  copy_up_to(s, file, "segment",
             signed_at(row, sequence_column::first_segment) + signed_at(row, sequence_column::segments));
  copy_up_to(s, file, "extent",
             signed_at(commit, commit_column::first_extent) + signed_at(commit, commit_column::extents));
  if (s.layout.content.column_sums) {
    const std::int64_t end = signed_at(commit, commit_column::first_block) + signed_at(commit, commit_column::blocks);
    copy_up_to(s, file, "colsum_index", end);
    copy_up_to(s, file, "colsum_sums", end);
    std::int64_t rows = 0;
    for (const Row& block : s.table("colsum_index", 0, end))
      rows = std::max(rows, signed_at(block, block_column::first_row) + signed_at(block, block_column::rows));
    copy_up_to(s, file, "colsum", rows);
  }
  if (s.layout.content.query_statistics)
    for (const char* name : {"qstat_index", "qstat_sums", "qstat_mean", "qstat_modulus", "qstat_second"})
      copy_up_to(s, file, name,
                 signed_at(commit, commit_column::first_statistic) + signed_at(commit, commit_column::statistics));
  file.commit(Stream::seg, commit);
}

void copy_map(const Trace::State& s, FileWriter& file, const Row& commit) {
  const std::int64_t row = signed_at(commit, commit_column::map_row);
  copy_up_to(s, file, "map_index", row + 1);
  copy_up_to(s, file, "map_sums", row + 1);
  const Row index = s.table("map_index", row, 1)[0];
  for (const char* name : {"map_max", "map_mean"})
    copy_up_to(s, file, name, signed_at(index, map_column::first_byte) + signed_at(index, map_column::bytes));
  file.commit(Stream::map, commit);
}

void copy_probe(const Trace::State& s, FileWriter& file, const Row& commit) {
  const std::int64_t row = signed_at(commit, commit_column::probe_row);
  const Row index = s.table("probe_index", row, 1)[0];
  copy_up_to(s, file, "probe_index", row + 1);
  copy_up_to(s, file, "probe_sums", row + 1);
  copy_up_to(s, file, "probe", signed_at(index, probe_column::first_row) + signed_at(index, probe_column::rows));
  file.commit(Stream::probe, commit);
}

// Everything that is sound, into the new file.
void copy(const Trace::State& s, FileWriter& file, Outcome& outcome) {
  const std::int64_t needed = static_cast<std::int64_t>(std::filesystem::file_size(s.path));
  if (file.output().free_bytes() < needed)
    throw Error(Category::write, {.doing = "repairing",
                                  .on = file.output().final().string(),
                                  .found = fmt::format("{} bytes free", file.output().free_bytes()),
                                  .expected = fmt::format("{}", needed),
                                  .usable = "the input is as it was",
                                  .next = "free disk space or give another -o FILE"});
  const std::int64_t width = s.columns.size();
  for (std::int64_t i = 0; i < outcome.tok; ++i) {
    const Row& commit = s.commits.tok[static_cast<std::size_t>(i)];
    each_slice(
        s, commit,
        [&](const char* name, std::int64_t l, std::int64_t h, std::int64_t first, std::int64_t n,
            const std::vector<std::byte>& bytes) { file.write_group(name, l, h, first, n, bytes.data()); },
        [&](Small which, std::int64_t n, const std::vector<std::byte>& bytes) {
          file.append(small_name(which), n, bytes.data());
        });
    file.append("tok_sums", 1, s.sums.data() + i * width);
    file.commit(Stream::tok, commit);
  }
  // Sequences in the order of their ends, as far as they and all their tokens are sound.
  for (const Row& commit : s.commits.seg) {
    const std::int64_t id = signed_at(commit, commit_column::sequence);
    const SequenceParts& one = s.parts[static_cast<std::size_t>(id)];
    try {
      if (!one.own.empty() && one.own.back().row + one.own.back().n > outcome.rows)
        throw hdf5::read_fault(s.name, fmt::format("sequence {} with lost tokens", id), "all of them");
      for (std::int64_t l = 0; l < s.layout.card.layers; ++l) verify_statistics(s, id, l);
    } catch (const Error& error) {
      outcome.lost.push_back(fmt::format("column sums, query statistics and map of sequence {}: {}", id, error.what()));
      continue;
    }
    copy_sequence(s, file, one);
    ++outcome.seg;
  }
  for (const Row& commit : s.commits.map) {
    const std::int64_t id = signed_at(commit, commit_column::sequence);
    if (id < 0 || id >= static_cast<std::int64_t>(s.parts.size())) continue;
    const SequenceParts& one = s.parts[static_cast<std::size_t>(id)];
    try {
      if (one.own.empty() || one.own.back().row + one.own.back().n > outcome.rows) continue;
      for (std::int64_t l = 0; l < s.layout.card.layers; ++l) verify_statistics(s, id, l);
    } catch (const Error&) {
      continue;  // said above
    }
    copy_map(s, file, commit);
    ++outcome.map;
  }
  for (const Row& commit : s.commits.probe) {
    try {
      const CommittedProbe probe = committed_probe(s, commit);
      for (std::int64_t l = 0; l < s.layout.card.layers; ++l) read_probe(s, probe, l);
    } catch (const Error& error) {
      outcome.lost.push_back(
          fmt::format("a pass over the context of sequence {}: {}", commit[commit_column::sequence], error.what()));
      continue;
    }
    copy_probe(s, file, commit);
    ++outcome.probe;
  }
  std::vector<std::string> list = s.not_recorded;
  for (const std::string& line : outcome.lost) list.push_back("lost in repair: " + line);
  StatusCode state = outcome.lost.empty() && s.state == TraceState::complete ? StatusCode::complete
                     : s.state == TraceState::truncated_disk_full            ? StatusCode::truncated_disk_full
                                                                             : StatusCode::interrupted;
  if (state == StatusCode::interrupted && s.state == TraceState::unfinished)
    list.push_back(fmt::format("everything after row {}: the recording broke off", outcome.rows));
  file.publish({.state = state,
                .rows = outcome.rows,
                .announced = s.layout.announced_rows,
                .mass_error = s.mass_error,
                .not_recorded = not_recorded_text(list),
                .start_ms = s.status[status_column::start_ms],
                .end_ms = s.status[status_column::end_ms]});
}

}  // namespace

json::object repair_trace(const std::filesystem::path& in, const std::filesystem::path& out, bool force) {
  if (is_segment_folder(in)) {
    const std::filesystem::path joined = out.string() + ".joined";
    const std::int64_t segments = join_segments(in, joined), entered = std::ssize(read_segment_index(in));
    json::object report = repair_trace(joined, out, force);
    std::error_code ignored;
    std::filesystem::remove(joined, ignored);
    report["segments"] = segments;
    if (segments < entered)
      report["lost"].as_array().emplace_back(
          fmt::format("segments from {} on: not as they were closed", segment_path("", segments, false).string()));
    return report;
  }
  check_is_hdf5(in);
  std::error_code ignored;
  if (std::filesystem::equivalent(in, out, ignored))
    throw Error(Category::usage, {.doing = "repairing",
                                  .on = in.string(),
                                  .found = "the same file as output",
                                  .expected = "another name",
                                  .next = "give -o FILE"});
  Trace::State s;
  s.path = in;
  s.name = in.filename().string();
  probe_in_child(s.name, [&] {
    Trace::State probed;
    probed.path = in;
    probed.name = s.name;
    probed.load(true);
  });
  s.load(false);

  Outcome outcome;
  outcome.tok = sound_prefix(s, outcome);
  FileWriter file(out, force, FsyncMode::end, copied_start(s));
  try {
    copy(s, file, outcome);
  } catch (...) {
    file.abandon();
    std::filesystem::remove(file.output().part(), ignored);
    throw;
  }

  json::object report;
  report["kept_tokens"] = outcome.rows;
  report["announced_tokens"] = s.layout.announced_rows;
  report["lost_committed_tokens"] = s.commits.rows - outcome.rows;
  report["ignored_commit_rows"] = s.commits.damaged;
  report["kept_commits"] = outcome.tok + outcome.seg + outcome.map + outcome.probe;
  report["finished_sequences"] = outcome.seg;
  json::array lost;
  for (const std::string& line : outcome.lost) lost.emplace_back(line);
  report["lost"] = std::move(lost);
  report["uncommitted_rows_dropped"] = s.at("k").extents[0] - s.commits.rows;
  return report;
}

}  // namespace kvgrind::traces
