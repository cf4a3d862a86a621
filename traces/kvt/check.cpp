// kvgrind check: structure, every checksum, and on request every number.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/hash.h"
#include "traces/kvt/probe.h"
#include "traces/kvt/recorder.h"
#include "traces/kvt/trace_state.h"

namespace kvgrind::traces {
namespace {

constexpr std::size_t most_findings = 100;

class Checker {
 public:
  Checker(const Trace::State& state, bool deep) : s_(state), deep_(deep) {}

  void run() {
    state_of_the_file();
    token_slices();
    for (std::size_t i = 0; i < s_.parts.size(); ++i) sequence(static_cast<std::int64_t>(i));
    for (const Row& commit : s_.commits.probe)
      for (std::int64_t l = 0; l < s_.layout.card.layers; ++l)
        attempt([&] { read_probe(s_, committed_probe(s_, commit), l); });
    output_projection();
    report_.details["slices_verified"] = slices_;
    report_.details["slices_damaged"] = damaged_;
    if (deep_) {
      report_.details["values_checked"] = values_;
      report_.details["not_finite"] = not_finite_;
      report_.details["not_finite_at"] = places_;
    }
  }
  CheckReport take() {
    if (left_out_ > 0) report_.findings.push_back(fmt::format("and {} more findings", left_out_));
    report_.ok = report_.findings.empty();
    return std::move(report_);
  }

 private:
  void found(std::string text) {
    if (report_.findings.size() < most_findings)
      report_.findings.push_back(std::move(text));
    else
      ++left_out_;
  }
  template <class F>
  void attempt(F&& work) {
    try {
      work();
      ++slices_;
    } catch (const Error& error) {
      ++damaged_;
      found(error.what());
    }
  }

  void state_of_the_file() {
    static constexpr const char* states[] = {"complete", "unfinished", "truncated_disk_full", "interrupted"};
    json::object& d = report_.details;
    const char* state = states[static_cast<int>(s_.state)];
    d["state"] = state;
    d["hash"] = s_.hash;
    d["rows"] = s_.commits.rows;
    d["announced_rows"] = s_.layout.announced_rows;
    d["sequences"] = s_.parts.size();
    d["commits"] = s_.commits.tok.size() + s_.commits.seg.size() + s_.commits.map.size() + s_.commits.probe.size();
    d["commit_rows_ignored"] = s_.commits.damaged;
    if (s_.state != TraceState::complete)
      found(fmt::format("the recording is {}: {} of about {} tokens are intact", state, s_.commits.rows,
                        s_.layout.announced_rows));
    if (s_.commits.damaged > 0)
      found(fmt::format("{}: {} rows are damaged or uncommitted and ignored", s_.at("commit").on, s_.commits.damaged));
    for (const std::string& line : s_.not_recorded)
      if (line.find("damaged") != std::string::npos) found(line);
  }

  // Where a not finite number stands, from a row of the file.
  void scan(const char* what, const std::vector<float>& values, std::int64_t width,
            const std::vector<std::int64_t>& rows, std::int64_t layer, std::optional<std::int64_t> head) {
    values_ += static_cast<std::int64_t>(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      if (++not_finite_ > static_cast<std::int64_t>(most_findings)) continue;
      const std::int64_t row = rows[i / static_cast<std::size_t>(width)];
      std::int64_t sequence = -1, token = -1;
      for (const SequenceParts& one : s_.parts)
        for (const Run& run : one.own)
          if (row >= run.row && row < run.row + run.n) sequence = one.info.id, token = run.position + row - run.row;
      const std::int64_t h = head.value_or(static_cast<std::int64_t>(i) % width);
      json::object place;
      place["dataset"] = what;
      place["sequence"] = sequence;
      place["layer"] = layer;
      place["head"] = h;
      place["token"] = token;
      places_.push_back(place);
      found(fmt::format("{} in {}: sequence {}, layer {}, head {}, token {}",
                        std::isnan(values[i]) ? "NaN" : "infinity", what, sequence, layer, h, token));
    }
  }

  // A step that a full spool dropped, as the file says: no query, and an LSE that is NaN throughout.
  bool dropped_step(const std::vector<float>& lse, std::size_t at, std::int64_t row) const {
    const auto width = static_cast<std::ptrdiff_t>(s_.layout.card.query_heads);
    const auto begin = lse.begin() + static_cast<std::ptrdiff_t>(at);
    return !std::binary_search(s_.q_row.begin(), s_.q_row.end(), row) &&
           std::all_of(begin, begin + width, [](float x) { return std::isnan(x); }) &&
           std::any_of(s_.not_recorded.begin(), s_.not_recorded.end(), [](const std::string& line) {
             return line.starts_with("queries") && line.find("LSE") != std::string::npos &&
                    line.find("dropped") != std::string::npos;
           });
  }

  void group(const char* what, Trace::State::Axis axis, const Row& commit, std::int64_t layer, std::int64_t head,
             std::int64_t column) {
    const bool queries = axis == Trace::State::Axis::queries, lse = std::string_view(what) == "lse";
    const std::int64_t first = signed_at(commit, queries ? commit_column::first_query : commit_column::first_row);
    const std::int64_t n = signed_at(commit, queries ? commit_column::queries : commit_column::rows);
    attempt([&] {
      const std::vector<std::byte> bytes = s_.slice(what, axis, first, n, layer, head, column);
      if (!deep_ || n == 0) return;
      const DType dtype = lse ? DType::f32 : s_.layout.card.dtype;
      std::vector<float> values(bytes.size() / static_cast<std::size_t>(size_bytes(dtype)));
      to_f32(dtype, bytes.data(), static_cast<std::int64_t>(values.size()), values.data());
      std::vector<std::int64_t> rows;
      for (std::int64_t i = 0; i < n; ++i)
        rows.push_back(queries ? s_.q_row[static_cast<std::size_t>(first + i)] : first + i);
      const std::int64_t width = s_.layout.card.query_heads;
      for (std::int64_t i = 0; lse && i < n; ++i)
        if (dropped_step(values, static_cast<std::size_t>(i * width), first + i))
          std::fill_n(values.begin() + i * width, width, 0.0f);
      scan(what, values, lse ? s_.layout.card.query_heads : s_.layout.card.head_dim, rows, layer,
           lse ? std::optional<std::int64_t>() : std::optional(head));
    });
  }

  void token_slices() {
    const ModelCard& card = s_.layout.card;
    using Axis = Trace::State::Axis;
    for (const Row& commit : s_.commits.tok) {
      for (int i = 0; i < small_count; ++i) {
        const Small which = static_cast<Small>(i);
        if (!has_small(s_.layout.content, which)) continue;
        const int column = which == Small::q_row  ? commit_column::first_query
                           : which == Small::text ? commit_column::first_byte
                                                  : commit_column::first_row;
        attempt([&] { s_.small(which, signed_at(commit, column), signed_at(commit, column + 1)); });
      }
      for (std::int64_t l = 0; l < card.layers; ++l) {
        for (std::int64_t h = 0; h < card.kv_heads; ++h) {
          group("k", Axis::rows, commit, l, h, s_.columns.k(l, h));
          group("v", Axis::rows, commit, l, h, s_.columns.v(l, h));
        }
        if (s_.layout.content.queries)
          for (std::int64_t h = 0; h < card.query_heads; ++h)
            group("q", Axis::queries, commit, l, h, s_.columns.q(l, h));
        group("lse", Axis::rows, commit, l, 0, s_.columns.lse(l));
      }
    }
  }

  void sequence(std::int64_t id) {
    const SequenceParts& one = s_.parts[static_cast<std::size_t>(id)];
    if (one.seg) attempt([&] { tables(one); });
    if (one.seg == nullptr && one.info.own_rows > 0)
      found(fmt::format("sequence {}: its end was not reached; column sums and statistics of it are missing", id));
    for (std::int64_t l = 0; l < s_.layout.card.layers; ++l) attempt([&] { verify_statistics(s_, id, l); });
  }

  // The rows a seg commit names hash to what it says, and its extents are the rows' own.
  void tables(const SequenceParts& one) {
    const Row& commit = *one.seg;
    Hasher hasher;
    const auto rows_of = [&](const char* name, std::int64_t first, std::int64_t n) {
      std::vector<Row> rows = s_.table(name, first, n);
      hasher.add(rows.data(), static_cast<std::int64_t>(rows.size() * sizeof(Row)));
      return rows;
    };
    const Row row = rows_of("sequence", signed_at(commit, commit_column::sequence_row), 1)[0];
    rows_of("segment", signed_at(row, sequence_column::first_segment), signed_at(row, sequence_column::segments));
    const std::vector<Row> extents =
        rows_of("extent", signed_at(commit, commit_column::first_extent), signed_at(commit, commit_column::extents));
    if (s_.layout.content.column_sums)
      rows_of("colsum_index", signed_at(commit, commit_column::first_block), signed_at(commit, commit_column::blocks));
    if (s_.layout.content.query_statistics)
      rows_of("qstat_index", signed_at(commit, commit_column::first_statistic),
              signed_at(commit, commit_column::statistics));
    if (hasher.digest() != commit[commit_column::tables_sum])
      throw hdf5::read_fault(s_.at("sequence").on,
                             fmt::format("other table rows of sequence {} than committed", one.info.id),
                             "an undamaged file");
    bool same = extents.size() == one.own.size() && signed_at(row, sequence_column::rows) == one.info.own_rows;
    for (std::size_t i = 0; same && i < extents.size(); ++i)
      same = signed_at(extents[i], extent_column::first_row) == one.own[i].row &&
             signed_at(extents[i], extent_column::rows) == one.own[i].n &&
             signed_at(extents[i], extent_column::first_position) == one.own[i].position;
    if (!same)
      throw hdf5::read_fault(s_.at("extent").on,
                             fmt::format("other extents of sequence {} than /seq and /pos", one.info.id), "the same");
  }

  void output_projection() {
    if (!s_.layout.content.output_projection) return;
    for (std::int64_t l = 0; l < s_.layout.card.layers; ++l) attempt([&] { read_output_projection(s_, l); });
  }

  const Trace::State& s_;
  bool deep_;
  CheckReport report_;
  std::int64_t slices_ = 0, damaged_ = 0, values_ = 0, not_finite_ = 0, left_out_ = 0;
  json::array places_;
};

}  // namespace

CheckReport check_trace(const std::filesystem::path& path, bool deep) {
  check_is_hdf5(path);
  Trace::State state;
  state.path = path;
  state.name = path.filename().string();
  try {
    probe_in_child(state.name, [&] {
      Trace::State probed;
      probed.path = path;
      probed.name = state.name;
      probed.load(true);
    });
    state.load(false);
  } catch (const Error& error) {
    if (error.category() != Category::damaged) throw;
    return {.ok = false, .details = {}, .findings = {error.what()}};
  }
  Checker checker(state, deep);
  checker.run();
  return checker.take();
}

}  // namespace kvgrind::traces
