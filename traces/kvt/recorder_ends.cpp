// The beginning and the end of a sequence, and of the recording: column sums, statistics, maps, final state.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "traces/kvt/recorder_state.h"
#include "traces/kvt/recording_plan.h"

namespace kvgrind::traces {

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

void Recorder::State::describe(std::int64_t id, TokenSequence known) {
  const bool there = id >= 0 && id < static_cast<std::int64_t>(done.size()) && !done[static_cast<std::size_t>(id)];
  const auto it = open.find(id);
  if (!there || in_pass || known.parent >= id ||
      (it != open.end() && (known.parent != sequence(id).parent || known.fork_at != sequence(id).fork_at)))
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("sequence {}", id),
                                  .found = "a new description of it",
                                  .expected = "a sequence that is not done, between passes, its parent before it"});
  known.spans = sequence(id).spans;
  if (it != open.end()) {
    if (it->second.attention) it->second.attention->move_ends(recorded_segments_of(known));
    if (it->second.moments)
      it->second.moments->move_ends(recorded_segments_of(known),
                                    known.fork_at + static_cast<std::int64_t>(known.ids.size()));
  }
  plan.sequences[static_cast<std::size_t>(id)] = std::move(known);
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
  if (pending_row < 0) commit_tail();  // else what waits is of another sequence; all rows of this one are committed
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
  file->rest();
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
    if (!done[s] && (static_cast<std::int64_t>(s) < first_spare || open.contains(static_cast<std::int64_t>(s))))
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

}  // namespace kvgrind::traces
