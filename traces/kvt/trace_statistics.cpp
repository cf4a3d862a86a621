// The reader's access to what is written once a sequence: column sums, query statistics, pooled maps.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/hash.h"
#include "traces/kvt/attention_sums.h"
#include "traces/kvt/trace_state.h"

namespace kvgrind::traces {

using hdf5::read_fault;

namespace {

// A row of u64 checksums, itself one of a run of rows whose hash is committed.
std::vector<std::uint64_t> read_sums(const hdf5::Dataset& dataset, std::int64_t first, std::int64_t n,
                                     std::uint64_t committed) {
  const std::int64_t width = dataset.extents[1];
  if (first < 0 || n < 0 || first > dataset.extents[0] - n || n > 4096)
    throw read_fault(dataset.on, fmt::format("{} rows", dataset.extents[0]),
                     fmt::format("row {} that is committed", first + n - 1));
  std::vector<std::uint64_t> out(static_cast<std::size_t>(n * width));
  hdf5::read_rows(dataset, first, n, out.data());
  if (hash_bytes(out.data(), static_cast<std::int64_t>(out.size()) * 8) != committed)
    throw read_fault(dataset.on, "other checksums than committed", "an undamaged file");
  return out;
}

std::vector<Row> read_table(const hdf5::Dataset& dataset, std::int64_t first, std::int64_t n) {
  if (first < 0 || n < 0 || first > dataset.extents[0] - n || n > 4096)
    throw read_fault(dataset.on, fmt::format("{} rows", dataset.extents[0]),
                     fmt::format("row {} that is committed", first + n - 1));
  std::vector<Row> rows(static_cast<std::size_t>(n));
  hdf5::read_rows(dataset, first, n, rows.data());
  for (const Row& row : rows)
    if (!sealed(row)) throw read_fault(dataset.on, "a row with a wrong checksum", "an undamaged file");
  return rows;
}

void check_sum(const Trace::State& s, const hdf5::Dataset& dataset, const void* data, std::int64_t bytes,
               std::uint64_t sum) {
  if (s.options.verify_checksums && hash_bytes(data, bytes) != sum)
    throw read_fault(dataset.on, "another checksum than committed", "an undamaged file");
}

std::int64_t limited(const hdf5::Dataset& dataset, std::initializer_list<std::int64_t> factors) {
  const std::int64_t bytes = hdf5::checked_product(factors);
  if (bytes < 0 || bytes > hdf5::max_allocation_bytes)
    throw read_fault(dataset.on, "too much to read at once", "at most 2 GiB");
  return bytes;
}

struct SumsBlock {
  std::int64_t segment, begin, end, n, first_row, rows;
  std::uint64_t sum;  // of the layer asked for
};

std::vector<SumsBlock> sums_blocks(const Trace::State& s, const SequenceParts& one, std::int64_t layer) {
  std::vector<SumsBlock> out;
  if (!s.layout.content.column_sums || one.seg == nullptr) return out;
  const std::int64_t first = signed_at(*one.seg, commit_column::first_block),
                     n = signed_at(*one.seg, commit_column::blocks);
  const std::vector<Row> rows = read_table(s.at("colsum_index"), first, n);
  const std::vector<std::uint64_t> sums =
      read_sums(s.at("colsum_sums"), first, n, (*one.seg)[commit_column::colsum_sum]);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    const SumsBlock block{signed_at(row, block_column::segment),
                          signed_at(row, block_column::begin),
                          signed_at(row, block_column::end),
                          signed_at(row, block_column::n),
                          signed_at(row, block_column::first_row),
                          signed_at(row, block_column::rows),
                          sums[i * static_cast<std::size_t>(s.layout.card.layers) + static_cast<std::size_t>(layer)]};
    const std::int64_t extent = s.at("colsum").extents[0];
    if (block.first_row < 0 || block.rows < 0 || block.rows > extent || block.first_row > extent - block.rows)
      throw read_fault(s.at("colsum").on, fmt::format("{} rows", extent), "all that /colsum_index names");
    out.push_back(block);
  }
  return out;
}

// Adds a block, read and verified, to sums [Hq, T].
void add_block(const Trace::State& s, const SumsBlock& block, std::int64_t layer, Array<float, 2>& sums) {
  const hdf5::Dataset& dataset = s.at("colsum");
  const std::int64_t heads = s.layout.card.query_heads;
  std::vector<float> values(static_cast<std::size_t>(limited(dataset, {block.rows, heads, 4}) / 4));
  const std::int64_t at[3] = {block.first_row, layer, 0}, count[3] = {block.rows, 1, heads};
  hdf5::read_box(dataset, at, count, values.data());
  check_sum(s, dataset, values.data(), block.rows * heads * 4, block.sum);
  for (std::int64_t t = 0; t < std::min(block.rows, sums.extent(1)); ++t)
    for (std::int64_t h = 0; h < heads; ++h) sums(h, t) += values[static_cast<std::size_t>(t * heads + h)];
}

// Adds the total over prefill queries before `end`; false when that is not recorded apart from later ones.
bool add_total(const Trace::State& s, std::int64_t sequence, std::int64_t layer, std::int64_t end,
               Array<float, 2>& sums) {
  const SequenceParts& one = s.part(sequence);
  const std::int64_t own_end = std::min(end, one.info.tokens);
  if (one.info.parent >= 0 && !add_total(s, one.info.parent, layer, std::min(end, one.info.fork_at), sums))
    return false;
  if (own_end <= one.info.fork_at) return true;
  const std::vector<SumsBlock> blocks = sums_blocks(s, one, layer);
  if (blocks.empty()) return false;
  const SumsBlock& total = blocks.back();
  if (total.segment != -1) return false;
  if (total.end <= own_end) {
    add_block(s, total, layer, sums);
    return true;
  }
  // Cut in the middle: only where segments add up to it.
  std::int64_t covered = one.info.fork_at;
  for (const SumsBlock& block : blocks)
    if (block.segment >= 0 && block.begin == covered && block.end <= own_end && block.n == block.end - block.begin)
      covered = block.end;
  if (covered != own_end) return false;
  covered = one.info.fork_at;
  for (const SumsBlock& block : blocks) {
    if (block.segment < 0 || block.begin != covered || block.end > own_end) continue;
    add_block(s, block, layer, sums);
    covered = block.end;
  }
  return true;
}

}  // namespace

std::optional<Array<float, 2>> Trace::column_sums(std::int64_t sequence, std::int64_t layer,
                                                  std::int64_t segment) const {
  const State& s = *state_;
  s.check_layer(layer);
  const SequenceInfo& info = s.part(sequence).info;
  if (!s.layout.content.column_sums) return std::nullopt;
  limited(s.at("colsum"), {info.tokens, s.layout.card.query_heads, 4});
  Array<float, 2> out({s.layout.card.query_heads, info.tokens});
  if (segment == -1) {
    if (!add_total(s, sequence, layer, info.tokens, out)) return std::nullopt;
    return out;
  }
  s.check_head(segment, static_cast<std::int64_t>(info.segments.size()));
  const auto [owner, own] = s.owner(sequence, segment);
  const Segment& wanted = info.segments[static_cast<std::size_t>(segment)];
  for (const SumsBlock& block : sums_blocks(s, s.part(owner), layer)) {
    if (block.segment != own) continue;
    if (block.begin != wanted.begin || block.end != wanted.end || block.n != wanted.end - wanted.begin)
      return std::nullopt;
    add_block(s, block, layer, out);
    return out;
  }
  return std::nullopt;
}

namespace {

// One dataset of the query statistics, all heads of one (row, layer), verified.
std::vector<float> read_moment(const Trace::State& s, const char* name, std::int64_t first, std::int64_t row,
                               std::int64_t layer, std::int64_t kind, std::int64_t a_head,
                               const std::vector<std::uint64_t>& sums) {
  const ModelCard& card = s.layout.card;
  const hdf5::Dataset& dataset = s.at(name);
  std::vector<float> values(static_cast<std::size_t>(limited(dataset, {card.query_heads, a_head, 4}) / 4));
  std::vector<std::int64_t> at(dataset.extents.size(), 0), count = dataset.extents;
  at[0] = first + row, at[1] = layer, count[0] = count[1] = 1;
  hdf5::read_box(dataset, at, count, values.data());
  check_sum(s, dataset, values.data(), card.query_heads * a_head * 4,
            sums[static_cast<std::size_t>((row * card.layers + layer) * 3 + kind)]);
  return values;
}

struct Moments {
  Row index;
  std::vector<float> mean, modulus, second;  // [Hq, …]
};

std::vector<Moments> read_moments(const Trace::State& s, const SequenceParts& one, std::int64_t layer) {
  std::vector<Moments> out;
  if (!s.layout.content.query_statistics || one.seg == nullptr) return out;
  const std::int64_t first = signed_at(*one.seg, commit_column::first_statistic), D = s.layout.card.head_dim;
  const std::int64_t n = signed_at(*one.seg, commit_column::statistics);
  const std::vector<Row> index = read_table(s.at("qstat_index"), first, n);
  const std::vector<std::uint64_t> sums = read_sums(s.at("qstat_sums"), first, n, (*one.seg)[commit_column::qstat_sum]);
  for (std::int64_t i = 0; i < n; ++i)
    out.push_back({.index = index[static_cast<std::size_t>(i)],
                   .mean = read_moment(s, "qstat_mean", first, i, layer, 0, D, sums),
                   .modulus = read_moment(s, "qstat_modulus", first, i, layer, 1, D / 2, sums),
                   .second = read_moment(s, "qstat_second", first, i, layer, 2, D * D, sums)});
  return out;
}

struct MapCodes {
  std::int64_t cell = 0, side = 0;
  std::vector<std::uint8_t> max, mean;  // [Hq, triangle(side)]
};

std::optional<MapCodes> read_map(const Trace::State& s, const SequenceParts& one, std::int64_t layer) {
  if (!s.layout.content.pooled_maps || one.map == nullptr) return std::nullopt;
  const std::int64_t at = signed_at(*one.map, commit_column::map_row), heads = s.layout.card.query_heads;
  const Row row = read_table(s.at("map_index"), at, 1)[0];
  if (hash_bytes(row.data(), sizeof row) != (*one.map)[commit_column::tables_sum])
    throw read_fault(s.at("map_index").on, "another row than committed", "an undamaged file");
  const std::vector<std::uint64_t> sums = read_sums(s.at("map_sums"), at, 1, (*one.map)[commit_column::map_sum]);
  MapCodes out{
      .cell = signed_at(row, map_column::cell), .side = signed_at(row, map_column::side), .max = {}, .mean = {}};
  const std::int64_t first = signed_at(row, map_column::first_byte), tokens = signed_at(row, map_column::tokens);
  constexpr std::int64_t far = std::int64_t{1} << 40;
  if (out.side < 1 || out.side > map_side || out.cell < 1 || out.cell > far || tokens < 0 || tokens > far ||
      first < 0 || first > far || (tokens + out.cell - 1) / out.cell != out.side)
    throw read_fault(s.at("map_index").on, fmt::format("a map of {} cells of {} tokens", out.side, out.cell),
                     "at most 256 cells that cover the sequence");
  const std::int64_t bytes = heads * triangle(out.side);
  const auto read = [&](const char* name, std::int64_t kind, std::vector<std::uint8_t>& codes) {
    const hdf5::Dataset& dataset = s.at(name);
    codes.resize(static_cast<std::size_t>(limited(dataset, {bytes})));
    hdf5::read_rows(dataset, first + layer * bytes, bytes, codes.data());
    check_sum(s, dataset, codes.data(), bytes, sums[static_cast<std::size_t>(2 * layer + kind)]);
  };
  read("map_max", 0, out.max);
  read("map_mean", 1, out.mean);
  return out;
}

}  // namespace

std::vector<QueryStatisticsRow> Trace::query_statistics(std::int64_t sequence, std::int64_t layer,
                                                        std::int64_t head) const {
  const State& s = *state_;
  s.check_layer(layer);
  s.check_head(head, s.layout.card.query_heads);
  const SequenceParts& one = s.part(sequence);
  const std::int64_t D = s.layout.card.head_dim;
  std::vector<QueryStatisticsRow> out;
  if (one.info.parent >= 0)
    for (QueryStatisticsRow& row : query_statistics(one.info.parent, layer, head))
      if (row.end <= one.info.fork_at) out.push_back(std::move(row));
  for (const Moments& m : read_moments(s, one, layer)) {
    QueryStatisticsRow row{
        .begin = signed_at(m.index, block_column::begin),
        .end = signed_at(m.index, block_column::end),
        .n = signed_at(m.index, block_column::n),
        .mean = {m.mean.begin() + head * D, m.mean.begin() + (head + 1) * D},
        .mean_modulus = {m.modulus.begin() + head * (D / 2), m.modulus.begin() + (head + 1) * (D / 2)},
        .second_moment = Array<float, 2>({D, D})};
    std::copy_n(m.second.begin() + head * D * D, D * D, row.second_moment.data());
    out.push_back(std::move(row));
  }
  return out;
}

std::optional<Trace::PooledMap> Trace::pooled_map(std::int64_t sequence, std::int64_t layer, std::int64_t head) const {
  const State& s = *state_;
  s.check_layer(layer);
  s.check_head(head, s.layout.card.query_heads);
  const std::optional<MapCodes> codes = read_map(s, s.part(sequence), layer);
  if (!codes) return std::nullopt;
  PooledMap out{.cell_tokens = codes->cell,
                .max = Array<float, 2>({codes->side, codes->side}),
                .mean = Array<float, 2>({codes->side, codes->side})};
  std::size_t at = static_cast<std::size_t>(head * triangle(codes->side));
  for (std::int64_t r = 0; r < codes->side; ++r)
    for (std::int64_t c = 0; c <= r; ++c, ++at) {
      out.max(r, c) = dequantise_attention(codes->max[at]);
      out.mean(r, c) = dequantise_attention(codes->mean[at]);
    }
  return out;
}

void verify_statistics(const Trace::State& s, std::int64_t sequence, std::int64_t layer) {
  const SequenceParts& one = s.part(sequence);
  for (const SumsBlock& block : sums_blocks(s, one, layer)) {
    Array<float, 2> sums({s.layout.card.query_heads, block.rows});
    add_block(s, block, layer, sums);
  }
  read_moments(s, one, layer);
  read_map(s, one, layer);
}

}  // namespace kvgrind::traces
