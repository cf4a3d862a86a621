#include "traces/kvt/recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <numeric>
#include <optional>

#include "core/hash.h"
#include "core/parallel.h"
#include "traces/kvt/attention_sums.h"
#include "traces/kvt/file_writer.h"
#include "traces/kvt/next_token.h"
#include "traces/kvt/query_moments.h"
#include "traces/kvt/recording_plan.h"
#include "traces/kvt/row_buffers.h"

namespace kvgrind::traces {
namespace {

using Clock = std::chrono::steady_clock;

// Rows that will be committed together: never across a multiple of C.
struct Range {
  std::int64_t first = 0, end = 0;              // rows of the file
  std::int64_t query_first = 0, query_end = 0;  // rows of q
  std::vector<std::uint64_t> sums;              // a row of tok_sums
  std::int64_t layers_written = 0;
};

struct Extent {
  std::int64_t first_row = 0, rows = 0, first_position = 0;
};

// A sequence between its first pass and sequence_done.
struct OpenSequence {
  std::optional<AttentionSums> attention;
  std::optional<QueryMoments> moments;
  std::vector<Extent> extents;
  std::int64_t next_position = 0;
  std::int64_t rows = 0;
};

float norm(View<const float, 2> x, std::int64_t row) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < x.extent(1); ++i) sum += static_cast<double>(x(row, i)) * static_cast<double>(x(row, i));
  return static_cast<float>(std::sqrt(sum));
}

}  // namespace

struct Recorder::State {
  Plan plan;
  RecordOptions options;
  Content content;
  std::vector<std::string> not_recorded;
  std::int64_t C = 16;
  std::unique_ptr<FileWriter> file;
  bool ended = false;  // closed, stopped or failed: nothing more is written
  SumColumns columns{};

  GroupBuffer k, v, q, lse;
  std::array<RowBuffer, small_count> small;
  std::deque<Range> ranges;
  std::int64_t rows = 0, query_rows = 0, text_bytes = 0, committed = 0, committed_text = 0;
  Clock::time_point last_commit = Clock::now();

  std::map<std::int64_t, OpenSequence> open;
  std::vector<bool> done;
  std::int64_t current = -1;  // sequence of the last pass
  double mass_error = std::numeric_limits<double>::quiet_NaN();

  // The pass under way.
  bool in_pass = false, decode = false;
  std::int64_t pass_sequence = 0, pass_first = 0, pass_row = 0, pass_rows = 0, pass_query_row = 0;
  std::vector<std::int32_t> pass_ids;
  std::vector<std::int64_t> chosen;  // rows of the pass whose queries are kept
  std::int64_t next_layer = 0;

  // The last row, while the token after it is unknown.
  std::int64_t pending_row = -1;
  std::vector<float> pending_logits;
  double pending_log_sum = 0.0;
  bool lost_nll = false;

  RowBuffer& row_buffer(Small which) { return small[static_cast<std::size_t>(which)]; }
  const TokenSequence& sequence(std::int64_t id) const { return plan.sequences[static_cast<std::size_t>(id)]; }

  OpenSequence& opened(std::int64_t id);
  void reserve(std::int64_t bytes);
  void begin(const TapPass& pass);
  void layer(const TapLayer& layer);
  void end(const TapEnd& end);
  void resolve_next(std::int32_t token);
  void write_layer(Range& range, std::int64_t layer);
  void commit_range(Range& range);
  void commit_due();
  void commit_tail();
  void drop_pass();
  void sequence_done(std::int64_t id, std::int32_t next_token);
  void write_colsums(OpenSequence& one, std::int64_t id, Row& commit, Hasher& tables);
  void write_statistics(OpenSequence& one, std::int64_t id, Row& commit, Hasher& tables);
  void write_maps(OpenSequence& one, std::int64_t id);
  FileWriter::Ending ending(StatusCode code);
  void finish();
  void stop(StatusCode code);

  // Runs a piece of writing; after a write fault nothing is touched any more.
  template <class F>
  void guarded(F&& work) {
    if (ended)
      throw Error(Category::write, {.doing = "writing trace", .on = plan_path, .found = "a recording that has ended"});
    try {
      work();
    } catch (const Error& error) {
      if (error.category() == Category::write && !ended) {
        ended = true;
        file->abandon();
        Fault fault = error.fault();
        fault.usable = usable();
        throw Error(Category::write, std::move(fault));
      }
      throw;
    }
  }
  std::string plan_path;
  std::string usable() const {
    return fmt::format("the first {} tokens are in {}", committed, file->output().part().string());
  }
};

OpenSequence& Recorder::State::opened(std::int64_t id) {
  const auto it = open.find(id);
  if (it != open.end()) return it->second;
  const TokenSequence& one = sequence(id);
  OpenSequence out;
  out.next_position = one.fork_at;
  const std::int64_t announced = one.fork_at + announced_rows_of(one);
  if (content.column_sums || content.pooled_maps)
    out.attention.emplace(plan.card.layers, plan.card.query_heads, recorded_segments_of(one), one.fork_at, announced,
                          content.column_sums, content.pooled_maps, plan.card.sinks.empty());
  if (content.query_statistics) {
    std::vector<Segment> segments = recorded_segments_of(one);
    segments.push_back({Role::generated, one.fork_at + static_cast<std::int64_t>(one.ids.size()),
                        std::numeric_limits<std::int64_t>::max()});
    out.moments.emplace(plan.card, std::move(segments));
  }
  return open.emplace(id, std::move(out)).first->second;
}

// Stops cleanly while there is still room to do so.
void Recorder::State::reserve(std::int64_t bytes) {
  const std::int64_t needed = bytes + bytes / 2 + options.reserve_bytes, free = file->output().free_bytes();
  if (free >= needed) return;
  const std::string kept_free = fmt::format("{} bytes free", free);
  stop(StatusCode::truncated_disk_full);
  throw Error(Category::write, {.doing = "writing trace",
                                .on = file->output().part().string(),
                                .found = kept_free,
                                .expected = fmt::format("{} for the next tokens and the reserve", needed),
                                .usable = usable(),
                                .next = "free disk space and record again, or lower the reserve"});
}

void Recorder::State::begin(const TapPass& pass) {
  const std::int64_t n = static_cast<std::int64_t>(pass.ids.size());
  if (pass.sequence < 0 || pass.sequence >= static_cast<std::int64_t>(plan.sequences.size()) ||
      done[static_cast<std::size_t>(pass.sequence)] || in_pass)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("sequence {}", pass.sequence),
                                  .found = "a pass of it",
                                  .expected = "an announced sequence that is not done"});
  OpenSequence& one = opened(pass.sequence);
  if (pass.first != one.next_position)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("sequence {}", pass.sequence),
                                  .found = fmt::format("a pass at position {}", pass.first),
                                  .expected = fmt::format("position {}", one.next_position)});
  if (pass.sequence == current && pending_row >= 0 && n > 0) resolve_next(pass.ids[0]);
  if (pass.sequence != current) {
    if (pending_row >= 0) lost_nll = true, pending_row = -1;
    commit_tail();
  }
  commit_due();
  reserve(n * (plan.card.layers *
                   ((2 * plan.card.kv_heads + plan.card.query_heads) * k.row_bytes() + 4 * plan.card.query_heads + 8) +
               600));

  in_pass = true;
  decode = pass.decode;
  current = pass_sequence = pass.sequence;
  pass_first = pass.first;
  pass_row = rows;
  pass_rows = n;
  pass_query_row = query_rows;
  pass_ids.assign(pass.ids.begin(), pass.ids.end());
  next_layer = 0;
  chosen.clear();
  const QueryChoice choice(options, sequence(pass.sequence), pass.sequence);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = rows + i;
    if (ranges.empty() || ranges.back().end % C == 0 || ranges.back().end != row)
      ranges.push_back({.first = row,
                        .end = row,
                        .query_first = query_rows,
                        .query_end = query_rows,
                        .sums = std::vector<std::uint64_t>(static_cast<std::size_t>(columns.size())),
                        .layers_written = 0});
    ++ranges.back().end;
    if (content.queries && choice.keeps(pass.first + i, pass.decode)) {
      chosen.push_back(i);
      row_buffer(Small::q_row).push(row);
      ++ranges.back().query_end;
      ++query_rows;
    }
    row_buffer(Small::tokens).push(pass.ids[static_cast<std::size_t>(i)]);
    row_buffer(Small::pos).push(pass.first + i);
    row_buffer(Small::seq).push(static_cast<std::int32_t>(pass.sequence));
    if (content.text) {
      const std::string text = plan.token_bytes(pass.ids[static_cast<std::size_t>(i)]);
      row_buffer(Small::text).push_bytes(text.data(), text.size());
      text_bytes += static_cast<std::int64_t>(text.size());
      row_buffer(Small::text_end).push(text_bytes);
    }
  }
  rows += n;
  const std::int64_t waiting = rows - committed;
  const float unknown = std::numeric_limits<float>::quiet_NaN();
  for (const Small which : {Small::nll, Small::hidden_norm, Small::attn_in_norm})
    row_buffer(which).extend(waiting, unknown);
  if (content.logits_top64) {
    row_buffer(Small::top_id).extend(waiting, std::int32_t{-1});
    row_buffer(Small::top_logp).extend(waiting, unknown);
  }
  if (one.attention) one.attention->prepare(pass.first, n, pass.decode);
}

void Recorder::State::layer(const TapLayer& tap) {
  if (!in_pass || tap.layer != next_layer || tap.lse.extent(0) != pass_rows)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("layer {}", tap.layer),
                                  .found = fmt::format("{} rows", tap.lse.extent(0)),
                                  .expected = fmt::format("layer {} with {} rows", next_layer, pass_rows)});
  ++next_layer;
  const View<const float, 3> lse_rows(tap.lse.data(), {tap.lse.extent(0), 1, tap.lse.extent(1)},
                                      {tap.lse.stride(0), tap.lse.stride(0), tap.lse.stride(1)});
  const auto put = [&tap](GroupBuffer& to, std::int64_t at, View<const float, 3> view, const TapRows& own,
                          std::span<const std::int64_t> which) {
    if (own.data)
      to.put(tap.layer, at, own, which);
    else
      to.put(tap.layer, at, view, which);
  };
  std::vector<std::int64_t> from;
  for (Range& range : ranges) {
    const std::int64_t a = std::max(range.first, pass_row), b = std::min(range.end, pass_row + pass_rows);
    if (a >= b) continue;
    from.resize(static_cast<std::size_t>(b - a));
    std::iota(from.begin(), from.end(), a - pass_row);
    put(k, a - range.first, tap.k, tap.rows_k, from);
    put(v, a - range.first, tap.v, tap.rows_v, from);
    lse.put(tap.layer, a - range.first, lse_rows, from);
    if (content.queries) {
      const std::int64_t qa = std::max(range.query_first, pass_query_row);
      const auto begin = chosen.begin() + (qa - pass_query_row),
                 end = chosen.begin() + (range.query_end - pass_query_row);
      if (begin < end) put(q, qa - range.query_first, tap.q, tap.rows_q, std::span(begin, end));
    }
    if (range.end % C == 0) write_layer(range, tap.layer);
  }
  for (std::int64_t i = 0; i < pass_rows; ++i) {
    const std::int64_t at = pass_row + i - committed;
    if (tap.input.extent(0) == pass_rows) row_buffer(Small::hidden_norm).set(at, tap.layer, norm(tap.input, i));
    if (tap.attn_in.extent(0) == pass_rows) row_buffer(Small::attn_in_norm).set(at, tap.layer, norm(tap.attn_in, i));
  }
  OpenSequence& one = opened(pass_sequence);
  if (one.moments && tap.q_pre.extent(0) == pass_rows) one.moments->add(tap.layer, pass_first, tap.q_pre);
}

void Recorder::State::write_layer(Range& range, std::int64_t l) {
  const std::int64_t n = range.end - range.first, queries = range.query_end - range.query_first;
  const auto write = [&](const char* name, const GroupBuffer& buffer, std::int64_t head, std::int64_t first,
                         std::int64_t count, std::int64_t column) {
    const std::byte* data = buffer.rows(l, head);
    file->write_group(name, l, head, first, count, data);
    range.sums[static_cast<std::size_t>(column)] = hash_bytes(data, count * buffer.row_bytes());
  };
  for (std::int64_t h = 0; h < plan.card.kv_heads; ++h) {
    write("k", k, h, range.first, n, columns.k(l, h));
    write("v", v, h, range.first, n, columns.v(l, h));
  }
  if (content.queries)
    for (std::int64_t h = 0; h < plan.card.query_heads; ++h)
      write("q", q, h, range.query_first, queries, columns.q(l, h));
  write("lse", lse, 0, range.first, n, columns.lse(l));
  ++range.layers_written;
}

void Recorder::State::commit_range(Range& range) {
  if (range.layers_written == 0)
    for (std::int64_t l = 0; l < plan.card.layers; ++l) write_layer(range, l);
  const std::int64_t n = range.end - range.first, queries = range.query_end - range.query_first;
  std::int64_t bytes = 0;
  if (content.text) {
    std::int64_t end = 0;
    std::memcpy(&end, row_buffer(Small::text_end).data() + (n - 1) * 8, 8);
    bytes = end - committed_text;
  }
  for (int i = 0; i < small_count; ++i) {
    const Small which = static_cast<Small>(i);
    if (!has_small(content, which)) continue;
    const std::int64_t count = which == Small::q_row ? queries : which == Small::text ? bytes : n;
    RowBuffer& buffer = row_buffer(which);
    file->append(small_name(which), count, buffer.data());
    range.sums[static_cast<std::size_t>(columns.small(which))] = hash_bytes(buffer.data(), count * buffer.row_bytes());
    buffer.drop_front(count);
  }
  file->append("tok_sums", 1, range.sums.data());
  Row row{};
  row[commit_column::first_row] = static_cast<std::uint64_t>(range.first);
  row[commit_column::rows] = static_cast<std::uint64_t>(n);
  row[commit_column::first_query] = static_cast<std::uint64_t>(range.query_first);
  row[commit_column::queries] = static_cast<std::uint64_t>(queries);
  row[commit_column::first_byte] = static_cast<std::uint64_t>(committed_text);
  row[commit_column::bytes] = static_cast<std::uint64_t>(bytes);
  row[commit_column::tok_sequence] = static_cast<std::uint64_t>(current);
  fold_token_sums(columns, range.sums, row);
  file->commit(Stream::tok, row);
  committed = range.end;
  committed_text += bytes;
  last_commit = Clock::now();
}

void Recorder::State::commit_due() {
  while (!ranges.empty() && ranges.front().end % C == 0 && ranges.front().end > ranges.front().first &&
         (pending_row < 0 || pending_row >= ranges.front().end)) {
    commit_range(ranges.front());
    ranges.pop_front();
  }
  if (!decode || ranges.empty() || pending_row >= 0) return;
  if (rows - committed >= 64 || Clock::now() - last_commit >= std::chrono::seconds(1)) commit_tail();
}

void Recorder::State::commit_tail() {
  while (!ranges.empty()) {
    if (ranges.front().end > ranges.front().first) commit_range(ranges.front());
    ranges.pop_front();
  }
}

void Recorder::State::resolve_next(std::int32_t token) {
  if (token >= 0 && token < static_cast<std::int64_t>(pending_logits.size()))
    row_buffer(Small::nll)
        .set(
            pending_row - committed, 0,
            static_cast<float>(pending_log_sum - static_cast<double>(pending_logits[static_cast<std::size_t>(token)])));
  pending_row = -1;
}

void Recorder::State::end(const TapEnd& tap) {
  if (!in_pass || next_layer != plan.card.layers)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = "the end of a pass",
                                  .found = fmt::format("{} layers", next_layer),
                                  .expected = fmt::format("{}", plan.card.layers)});
  const TokenSequence& announced = sequence(pass_sequence);
  const std::int64_t offset = pass_row - committed, L = plan.card.layers;
  if (tap.final_residual.extent(0) == pass_rows)
    for (std::int64_t i = 0; i < pass_rows; ++i)
      row_buffer(Small::hidden_norm).set(offset + i, L, norm(tap.final_residual, i));

  const std::int64_t given = static_cast<std::int64_t>(tap.logit_rows.size()), vocab = tap.logits.extent(1);
  std::vector<double> log_sum(static_cast<std::size_t>(given));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(given * top_tokens));
  std::vector<float> log_p(static_cast<std::size_t>(given * top_tokens));
  const auto logits_of = [&](std::int64_t r, std::vector<float>& copy) {
    if (tap.logits.stride(1) == 1) return std::span<const float>(&tap.logits(r, 0), static_cast<std::size_t>(vocab));
    copy.resize(static_cast<std::size_t>(vocab));
    for (std::int64_t j = 0; j < vocab; ++j) copy[static_cast<std::size_t>(j)] = tap.logits(r, j);
    return std::span<const float>(copy);
  };
  parallel_for(given, [&](std::int64_t r) {
    std::vector<float> copy;
    log_sum[static_cast<std::size_t>(r)] =
        top_log_probabilities(logits_of(r, copy), ids.data() + r * top_tokens, log_p.data() + r * top_tokens);
  });
  for (std::int64_t r = 0; r < given; ++r) {
    const std::int64_t i = tap.logit_rows[static_cast<std::size_t>(r)];
    if (i < 0 || i >= pass_rows) continue;
    if (content.logits_top64)
      for (std::int64_t j = 0; j < top_tokens; ++j) {
        row_buffer(Small::top_id).set(offset + i, j, ids[static_cast<std::size_t>(r * top_tokens + j)]);
        row_buffer(Small::top_logp).set(offset + i, j, log_p[static_cast<std::size_t>(r * top_tokens + j)]);
      }
    const std::int64_t next = pass_first + i + 1 - announced.fork_at;
    std::int32_t token = -1;
    if (i + 1 < pass_rows)
      token = pass_ids[static_cast<std::size_t>(i + 1)];
    else if (next < static_cast<std::int64_t>(announced.ids.size()))
      token = announced.ids[static_cast<std::size_t>(next)];
    std::vector<float> copy;
    const std::span<const float> logits = logits_of(r, copy);
    if (token >= 0 && token < vocab) {
      row_buffer(Small::nll)
          .set(offset + i, 0,
               static_cast<float>(log_sum[static_cast<std::size_t>(r)] -
                                  static_cast<double>(logits[static_cast<std::size_t>(token)])));
    } else if (token < 0) {
      pending_row = pass_row + i;
      pending_logits.assign(logits.begin(), logits.end());
      pending_log_sum = log_sum[static_cast<std::size_t>(r)];
    }
  }
  OpenSequence& one = opened(pass_sequence);
  one.next_position += pass_rows;
  one.rows += pass_rows;
  if (!one.extents.empty() && one.extents.back().first_row + one.extents.back().rows == pass_row)
    one.extents.back().rows += pass_rows;
  else if (pass_rows > 0)
    one.extents.push_back({pass_row, pass_rows, pass_first});
  in_pass = false;
  commit_due();
}

// A pass that broke off: its rows are forgotten, and a chunk that was being written with them waits uncommitted.
void Recorder::State::drop_pass() {
  if (!in_pass) return;
  in_pass = false;
  std::int64_t keep = pass_row, keep_queries = pass_query_row;
  while (!ranges.empty() && ranges.back().end > pass_row) {
    Range& last = ranges.back();
    if (last.first < pass_row && last.layers_written == 0) {
      last.end = pass_row;
      last.query_end = pass_query_row;
      break;
    }
    if (last.first < pass_row) keep = last.first, keep_queries = last.query_first;
    ranges.pop_back();
  }
  const std::int64_t waiting = keep - committed;
  for (int i = 0; i < small_count; ++i) {
    const Small which = static_cast<Small>(i);
    if (!has_small(content, which) || which == Small::q_row || which == Small::text) continue;
    row_buffer(which).keep_front(waiting);
  }
  if (content.queries)
    row_buffer(Small::q_row).keep_front(keep_queries - (ranges.empty() ? keep_queries : ranges.front().query_first));
  rows = keep;
  query_rows = keep_queries;
}

void Recorder::State::write_colsums(OpenSequence& one, std::int64_t id, Row& commit, Hasher& tables) {
  if (!content.column_sums) return;
  const ModelCard& card = plan.card;
  commit[commit_column::first_block] = static_cast<std::uint64_t>(file->rows("colsum_index"));
  Hasher sums_hash;
  std::vector<float> layer;
  const std::vector<AttentionSums::Block> blocks = one.attention->blocks();
  for (const AttentionSums::Block& block : blocks) {
    const std::int64_t first = file->rows("colsum");
    std::vector<std::uint64_t> sums;
    layer.resize(static_cast<std::size_t>(block.keys * card.query_heads));
    for (std::int64_t l = 0; l < card.layers; ++l) {
      one.attention->column_sums(block, l, layer.data());
      file->write_group("colsum", l, 0, first, block.keys, layer.data());
      sums.push_back(hash_bytes(layer.data(), block.keys * card.query_heads * 4));
    }
    Row row{};
    row[block_column::sequence] = static_cast<std::uint64_t>(id);
    row[block_column::segment] = static_cast<std::uint64_t>(block.segment);
    row[block_column::begin] = static_cast<std::uint64_t>(block.begin);
    row[block_column::end] = static_cast<std::uint64_t>(block.end);
    row[block_column::n] = static_cast<std::uint64_t>(block.n);
    row[block_column::first_row] = static_cast<std::uint64_t>(first);
    row[block_column::rows] = static_cast<std::uint64_t>(block.keys);
    seal(row);
    tables.add(row.data(), sizeof row);
    file->append("colsum_index", 1, row.data());
    file->append("colsum_sums", 1, sums.data());
    sums_hash.add(sums.data(), static_cast<std::int64_t>(sums.size()) * 8);
  }
  commit[commit_column::blocks] = blocks.size();
  commit[commit_column::colsum_sum] = sums_hash.digest();
}

void Recorder::State::write_statistics(OpenSequence& one, std::int64_t id, Row& commit, Hasher& tables) {
  if (!content.query_statistics) return;
  const std::int64_t L = plan.card.layers, Hq = plan.card.query_heads, D = plan.card.head_dim;
  commit[commit_column::first_statistic] = static_cast<std::uint64_t>(file->rows("qstat_index"));
  Hasher sums_hash;
  std::uint64_t written = 0;
  std::vector<float> mean(static_cast<std::size_t>(Hq * D)), modulus(static_cast<std::size_t>(Hq * (D / 2))),
      second(static_cast<std::size_t>(Hq * D * D));
  const std::int64_t announced = one.moments->segments() - 1;  // the last is what was generated
  for (std::int64_t s = 0; s <= announced; ++s) {
    if (one.moments->count(s) == 0) continue;
    const std::int64_t at = file->rows("qstat_index");
    for (const char* name : {"qstat_mean", "qstat_modulus", "qstat_second"}) file->grow(name, at + 1);
    std::vector<std::uint64_t> sums;
    for (std::int64_t l = 0; l < L; ++l) {
      one.moments->read(s, l, mean.data(), modulus.data(), second.data());
      file->write_box("qstat_mean", {at, l, 0, 0}, {1, 1, Hq, D}, mean.data());
      file->write_box("qstat_modulus", {at, l, 0, 0}, {1, 1, Hq, D / 2}, modulus.data());
      for (std::int64_t h = 0; h < Hq; ++h)
        file->write_box("qstat_second", {at, l, h, 0, 0}, {1, 1, 1, D, D}, second.data() + h * D * D);
      sums.push_back(hash_bytes(mean.data(), Hq * D * 4));
      sums.push_back(hash_bytes(modulus.data(), Hq * (D / 2) * 4));
      sums.push_back(hash_bytes(second.data(), Hq * D * D * 4));
    }
    const Segment& segment = one.moments->segment(s);
    Row row{};
    row[block_column::sequence] = static_cast<std::uint64_t>(id);
    row[block_column::segment] = s == announced ? sequence(id).segments.size() : static_cast<std::uint64_t>(s);
    row[block_column::begin] = static_cast<std::uint64_t>(segment.begin);
    row[block_column::end] = static_cast<std::uint64_t>(std::min(segment.end, one.next_position));
    row[block_column::n] = static_cast<std::uint64_t>(one.moments->count(s));
    seal(row);
    tables.add(row.data(), sizeof row);
    file->append("qstat_index", 1, row.data());
    file->append("qstat_sums", 1, sums.data());
    sums_hash.add(sums.data(), static_cast<std::int64_t>(sums.size()) * 8);
    ++written;
  }
  commit[commit_column::statistics] = written;
  commit[commit_column::qstat_sum] = sums_hash.digest();
}

void Recorder::State::write_maps(OpenSequence& one, std::int64_t id) {
  if (!content.pooled_maps || one.rows == 0) return;
  const std::int64_t L = plan.card.layers, Hq = plan.card.query_heads, side = one.attention->side();
  const std::int64_t cells = triangle(side), first = file->rows("map_max");
  std::vector<std::uint8_t> max(static_cast<std::size_t>(Hq * cells)), mean(max.size());
  std::vector<std::uint64_t> sums;
  for (std::int64_t l = 0; l < L; ++l) {
    parallel_for(Hq,
                 [&](std::int64_t h) { one.attention->map(l, h, max.data() + h * cells, mean.data() + h * cells); });
    file->append("map_max", Hq * cells, max.data());
    file->append("map_mean", Hq * cells, mean.data());
    sums.push_back(hash_bytes(max.data(), Hq * cells));
    sums.push_back(hash_bytes(mean.data(), Hq * cells));
  }
  Row row{}, commit{};
  row[map_column::sequence] = static_cast<std::uint64_t>(id);
  row[map_column::first_query] = static_cast<std::uint64_t>(sequence(id).fork_at);
  row[map_column::tokens] = static_cast<std::uint64_t>(one.next_position);
  row[map_column::cell] = static_cast<std::uint64_t>(one.attention->cell());
  row[map_column::side] = static_cast<std::uint64_t>(side);
  row[map_column::first_byte] = static_cast<std::uint64_t>(first);
  row[map_column::bytes] = static_cast<std::uint64_t>(L * Hq * cells);
  seal(row);
  commit[commit_column::sequence] = static_cast<std::uint64_t>(id);
  commit[commit_column::map_row] = static_cast<std::uint64_t>(file->rows("map_index"));
  file->append("map_index", 1, row.data());
  file->append("map_sums", 1, sums.data());
  commit[commit_column::tables_sum] = hash_bytes(row.data(), sizeof row);
  commit[commit_column::map_sum] = hash_bytes(sums.data(), static_cast<std::int64_t>(sums.size()) * 8);
  file->commit(Stream::map, commit);
}

void Recorder::State::sequence_done(std::int64_t id, std::int32_t next_token) {
  if (in_pass || id < 0 || id >= static_cast<std::int64_t>(done.size()) || done[static_cast<std::size_t>(id)])
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("sequence {}", id),
                                  .found = "its end",
                                  .expected = "an announced sequence, once, between passes"});
  OpenSequence& one = opened(id);
  if (id == current && pending_row >= 0) resolve_next(next_token);
  commit_tail();
  const ModelCard& card = plan.card;
  const TokenSequence& announced = sequence(id);
  std::int64_t bytes = 0;
  if (content.column_sums)
    for (const AttentionSums::Block& block : one.attention->blocks())
      bytes += block.keys * card.layers * card.query_heads * 4;
  if (content.query_statistics)
    for (std::int64_t s = 0; s < one.moments->segments(); ++s)
      if (one.moments->count(s) > 0) bytes += card.layers * card.query_heads * card.head_dim * (card.head_dim + 2) * 4;
  if (content.pooled_maps && one.rows > 0)
    bytes += 2 * card.layers * card.query_heads * triangle(one.attention->side());
  reserve(bytes);

  Row commit{}, row{};
  Hasher tables;
  row[sequence_column::id] = static_cast<std::uint64_t>(id);
  row[sequence_column::parent] = static_cast<std::uint64_t>(announced.parent);
  row[sequence_column::fork_at] = static_cast<std::uint64_t>(announced.fork_at);
  row[sequence_column::first_row] =
      one.extents.empty() ? static_cast<std::uint64_t>(-1) : static_cast<std::uint64_t>(one.extents[0].first_row);
  row[sequence_column::rows] = static_cast<std::uint64_t>(one.rows);
  row[sequence_column::announced] = announced.ids.size();
  row[sequence_column::decode] = static_cast<std::uint64_t>(announced.decode);
  row[sequence_column::next_token] = static_cast<std::uint64_t>(static_cast<std::int64_t>(next_token));
  // Its segments again, as they came out: cut at the last token, with what was generated.
  std::vector<Row> segments;
  const std::int64_t end = one.next_position;
  const auto add_segment = [&](Role role, std::int64_t a, std::int64_t b) {
    segments.push_back({static_cast<std::uint64_t>(id), static_cast<std::uint64_t>(role),
                        static_cast<std::uint64_t>(std::min(a, end)), static_cast<std::uint64_t>(std::min(b, end))});
    seal(segments.back());
  };
  std::int64_t covered = announced.fork_at + static_cast<std::int64_t>(announced.ids.size()), spans_before = 0;
  for (const Segment& s : announced.segments) {
    add_segment(s.role, s.begin, s.end);
    covered = std::max(covered, s.end);
  }
  if (covered < end) add_segment(Role::generated, covered, end);
  for (std::int64_t s = 0; s < id; ++s) spans_before += static_cast<std::int64_t>(sequence(s).spans.size());
  row[sequence_column::first_segment] = static_cast<std::uint64_t>(file->rows("segment"));
  row[sequence_column::segments] = segments.size();
  row[sequence_column::first_span] = static_cast<std::uint64_t>(spans_before);
  row[sequence_column::spans] = announced.spans.size();
  row[sequence_column::done] = 1;
  seal(row);
  commit[commit_column::sequence] = static_cast<std::uint64_t>(id);
  commit[commit_column::sequence_row] = static_cast<std::uint64_t>(file->rows("sequence"));
  commit[commit_column::first_extent] = static_cast<std::uint64_t>(file->rows("extent"));
  commit[commit_column::extents] = one.extents.size();
  file->append("sequence", 1, row.data());
  file->append("segment", static_cast<std::int64_t>(segments.size()), segments.data());
  tables.add(row.data(), sizeof row);
  tables.add(segments.data(), static_cast<std::int64_t>(segments.size() * sizeof(Row)));
  for (const Extent& extent : one.extents) {
    Row extent_row{static_cast<std::uint64_t>(id), static_cast<std::uint64_t>(extent.first_row),
                   static_cast<std::uint64_t>(extent.rows), static_cast<std::uint64_t>(extent.first_position)};
    seal(extent_row);
    tables.add(extent_row.data(), sizeof extent_row);
    file->append("extent", 1, extent_row.data());
  }
  write_colsums(one, id, commit, tables);
  write_statistics(one, id, commit, tables);
  commit[commit_column::tables_sum] = tables.digest();
  file->commit(Stream::seg, commit);
  write_maps(one, id);
  if (one.attention) {
    const double error = one.attention->largest_mass_error();
    if (!std::isnan(error) && !(error <= mass_error)) mass_error = error;
  }
  done[static_cast<std::size_t>(id)] = true;
  open.erase(id);
}

FileWriter::Ending Recorder::State::ending(StatusCode code) {
  std::vector<std::string> list = not_recorded;
  if (lost_nll) list.push_back("NLL of the last token before another sequence was fed in between");
  for (std::size_t s = 0; s < done.size(); ++s)
    if (!done[s])
      list.push_back(fmt::format("sequence {}: announced, but {}", s,
                                 open.contains(static_cast<std::int64_t>(s)) ? "its end was not reached" : "not fed"));
  for (const auto& [id, one] : open) {
    const double error = one.attention ? one.attention->largest_mass_error() : NAN;
    if (!std::isnan(error) && !(error <= mass_error)) mass_error = error;
  }
  std::int64_t announced = 0;
  for (const TokenSequence& one : plan.sequences) announced += announced_rows_of(one);
  return {.state = code,
          .rows = committed,
          .announced = announced,
          .mass_error = mass_error,
          .not_recorded = not_recorded_text(list)};
}

void Recorder::State::stop(StatusCode code) {
  drop_pass();
  pending_row = -1;
  commit_tail();
  const FileWriter::Ending how = ending(code);
  ended = true;
  try {
    file->stop(how);
  } catch (...) {
    file->abandon();
    throw;
  }
}

void Recorder::State::finish() {
  if (current >= 0 && !done[static_cast<std::size_t>(current)] && open.contains(current) &&
      opened(current).rows >= static_cast<std::int64_t>(sequence(current).ids.size()))
    sequence_done(current, -1);
  pending_row = -1;
  commit_tail();
  file->publish(ending(StatusCode::complete));
  ended = true;
}

Recorder::Recorder(const std::filesystem::path& path, Plan plan, const RecordOptions& options)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.plan = std::move(plan);
  s.options = options;
  s.plan_path = path.string();
  FileStart start = plan_file(s.plan, options, s.not_recorded);
  const ModelCard& card = s.plan.card;
  s.content = start.layout.content;
  s.C = start.layout.chunk_rows;
  s.columns = sum_columns(card);
  s.done.resize(s.plan.sequences.size());
  s.file = std::make_unique<FileWriter>(path, options.force, options.fsync, std::move(start));
  s.k = GroupBuffer(card.dtype, card.layers, card.kv_heads, s.C, card.head_dim);
  s.v = GroupBuffer(card.dtype, card.layers, card.kv_heads, s.C, card.head_dim);
  if (s.content.queries) s.q = GroupBuffer(card.dtype, card.layers, card.query_heads, s.C, card.head_dim);
  s.lse = GroupBuffer(DType::f32, card.layers, 1, s.C, card.query_heads);
  for (int i = 0; i < small_count; ++i) {
    static constexpr std::int64_t element[small_count] = {4, 8, 4, 4, 4, 4, 4, 4, 1, 8, 8};
    const Small which = static_cast<Small>(i);
    const std::int64_t width = which == Small::hidden_norm                          ? card.layers + 1
                               : which == Small::attn_in_norm                       ? card.layers
                               : which == Small::top_id || which == Small::top_logp ? top_tokens
                                                                                    : 1;
    s.small[static_cast<std::size_t>(i)] = RowBuffer(element[i] * width);
  }
}

Recorder::~Recorder() = default;

bool Recorder::wants_probabilities(std::int64_t) const {
  return state_->content.column_sums || state_->content.pooled_maps;
}
bool Recorder::wants_all_logits() const { return state_->content.logits_top64; }

void Recorder::begin(const TapPass& pass) {
  state_->guarded([&] { state_->begin(pass); });
}
void Recorder::probabilities(const TapProbabilities& block) {
  if (state_->ended) return;
  const auto it = state_->open.find(state_->pass_sequence);
  if (it != state_->open.end() && it->second.attention) it->second.attention->add(block);
}
void Recorder::layer(const TapLayer& layer) {
  state_->guarded([&] { state_->layer(layer); });
}
void Recorder::end(const TapEnd& end) {
  state_->guarded([&] { state_->end(end); });
}
void Recorder::column_sums(std::int64_t sequence, std::int64_t layer, std::int64_t segment, View<const float, 2> sums) {
  const auto it = state_->open.find(sequence);
  if (state_->content.column_sums && it != state_->open.end() && it->second.attention)
    it->second.attention->set_column_sums(layer, segment, sums);
}
void Recorder::sequence_done(std::int64_t sequence, std::int32_t next_token) {
  state_->guarded([&] { state_->sequence_done(sequence, next_token); });
}
void Recorder::close() {
  state_->guarded([&] { state_->finish(); });
}
void Recorder::interrupt() {
  if (state_->ended) return;
  state_->guarded([&] {
    if (std::all_of(state_->done.begin(), state_->done.end(), [](bool b) { return b; }) && !state_->in_pass)
      state_->finish();
    else
      state_->stop(StatusCode::interrupted);
  });
}
std::int64_t Recorder::committed_rows() const { return state_->committed; }

}  // namespace kvgrind::traces
