// Passes over a context once more: writing them between a recording's own passes, and reading them.
#include <fmt/format.h>

#include <algorithm>

#include "core/hash.h"
#include "traces/kvt/recorder_state.h"
#include "traces/kvt/trace_state.h"

namespace kvgrind::traces {

using hdf5::read_fault;

namespace {

std::int64_t statistics_in(std::uint64_t mask) {
  std::int64_t n = 0;
  for (int s = 0; s < probe_statistics; ++s) n += static_cast<std::int64_t>(mask >> s & 1u);
  return n;
}

ProbePass pass_of(const Row& row) {
  return {.kind = static_cast<ProbeKind>(row[probe_column::kind]),
          .number = signed_at(row, probe_column::number),
          .begin = signed_at(row, probe_column::begin),
          .end = signed_at(row, probe_column::end),
          .sinks = signed_at(row, probe_column::sinks),
          .first = signed_at(row, probe_column::first),
          .lead = signed_at(row, probe_column::lead),
          .fed = signed_at(row, probe_column::fed)};
}

// Probe commits that a sequence has: its own, and those of contexts that it continues; by kind, then number.
std::vector<CommittedProbe> probes_of(const Trace::State& s, std::int64_t sequence) {
  std::vector<CommittedProbe> out;
  const SequenceParts* one = &s.part(sequence);
  std::int64_t reach = one->info.tokens;
  for (;;) {
    for (const Row& commit : s.commits.probe) {
      if (signed_at(commit, commit_column::sequence) != one->info.id) continue;
      CommittedProbe probe = committed_probe(s, commit);
      if (signed_at(probe.index, probe_column::first) <= reach) out.push_back(std::move(probe));
    }
    if (one->info.parent < 0) break;
    reach = std::min(reach, one->info.fork_at);
    one = &s.part(one->info.parent);
  }
  std::stable_sort(out.begin(), out.end(), [](const CommittedProbe& a, const CommittedProbe& b) {
    const auto key = [](const Row& row) { return std::pair(row[probe_column::kind], row[probe_column::number]); };
    return key(a.index) < key(b.index);
  });
  return out;
}

}  // namespace

CommittedProbe committed_probe(const Trace::State& s, const Row& commit) {
  if (!s.layout.content.probes) throw read_fault(s.at("commit").on, "a pass over a context", "none, by the header");
  const std::int64_t row = signed_at(commit, commit_column::probe_row), layers = s.layout.card.layers;
  CommittedProbe out;
  out.index = s.table("probe_index", row, 1)[0];
  if (hash_bytes(out.index.data(), sizeof out.index) != commit[commit_column::tables_sum])
    throw read_fault(s.at("probe_index").on, fmt::format("another row {} than committed", row), "an undamaged file");
  const hdf5::Dataset& sums = s.at("probe_sums");
  if (row >= sums.extents[0])
    throw read_fault(sums.on, fmt::format("{} rows", sums.extents[0]), fmt::format("row {}, as committed", row));
  out.sums.resize(static_cast<std::size_t>(layers));
  hdf5::read_rows(sums, row, 1, out.sums.data());
  if (hash_bytes(out.sums.data(), layers * 8) != commit[commit_column::probe_sum])
    throw read_fault(sums.on, "other checksums than committed", "an undamaged file");
  const ProbePass pass = pass_of(out.index);
  const std::int64_t extent = s.at("probe").extents[0], first = signed_at(out.index, probe_column::first_row),
                     rows = signed_at(out.index, probe_column::rows);
  const auto kind = out.index[probe_column::kind];
  const bool ok = kind >= 1 && kind <= 3 && pass.begin >= 0 && pass.begin < pass.end && pass.end <= pass.first &&
                  pass.first < (std::int64_t{1} << 40) && first >= 0 && rows >= 0 && rows <= extent &&
                  first <= extent - rows && out.index[probe_column::statistics] >> probe_statistics == 0 &&
                  rows == statistics_in(out.index[probe_column::statistics]) * (pass.end - pass.begin);
  if (!ok) throw read_fault(s.at("probe_index").on, fmt::format("a row {} that makes no sense", row), "a pass");
  return out;
}

std::vector<float> read_probe(const Trace::State& s, const CommittedProbe& probe, std::int64_t layer) {
  const hdf5::Dataset& dataset = s.at("probe");
  const std::int64_t rows = signed_at(probe.index, probe_column::rows), heads = s.layout.card.query_heads;
  const std::int64_t bytes = hdf5::checked_product({rows, heads, 4});
  if (bytes < 0 || bytes > hdf5::max_allocation_bytes)
    throw read_fault(dataset.on, fmt::format("{} rows of one pass", rows), "at most 2 GiB");
  std::vector<float> out(static_cast<std::size_t>(rows * heads));
  const std::int64_t at[3] = {signed_at(probe.index, probe_column::first_row), layer, 0}, count[3] = {rows, 1, heads};
  hdf5::read_box(dataset, at, count, out.data());
  if (s.options.verify_checksums && hash_bytes(out.data(), bytes) != probe.sums[static_cast<std::size_t>(layer)])
    throw read_fault(dataset.on, "another checksum than committed", "an undamaged file");
  return out;
}

std::vector<ProbePass> Trace::probe_passes(std::int64_t sequence) const {
  std::vector<ProbePass> out;
  for (const CommittedProbe& probe : probes_of(*state_, sequence)) out.push_back(pass_of(probe.index));
  return out;
}

std::vector<ProbeColumns> Trace::probes(std::int64_t sequence, std::int64_t layer, std::int64_t head,
                                        ProbeKind kind) const {
  const State& s = *state_;
  s.check_layer(layer);
  s.check_head(head, s.layout.card.query_heads);
  std::vector<ProbeColumns> out;
  for (const CommittedProbe& probe : probes_of(s, sequence)) {
    const ProbePass pass = pass_of(probe.index);
    if (pass.kind != kind) continue;
    const std::vector<float> values = read_probe(s, probe, layer);
    ProbeColumns& columns = out.emplace_back(ProbeColumns{pass.number, pass.begin, pass.end, {}});
    const std::int64_t heads = s.layout.card.query_heads, keys = pass.end - pass.begin;
    std::int64_t row = 0;
    for (int statistic = 0; statistic < probe_statistics; ++statistic) {
      if ((probe.index[probe_column::statistics] >> statistic & 1u) == 0) continue;
      std::vector<float>& to = columns.columns[static_cast<std::size_t>(statistic)];
      for (std::int64_t j = 0; j < keys; ++j, ++row) to.push_back(values[static_cast<std::size_t>(row * heads + head)]);
    }
  }
  return out;
}

std::int64_t Trace::probe_bytes() const {
  std::int64_t rows = 0;
  for (const Row& commit : state_->commits.probe)
    rows += signed_at(committed_probe(*state_, commit).index, probe_column::rows);
  return rows * state_->layout.card.layers * state_->layout.card.query_heads * 4;
}

void Recorder::State::probe(std::int64_t id, const ProbePass& pass, const ProbeRows& values) {
  const std::int64_t keys = pass.end - pass.begin, L = plan.card.layers, Hq = plan.card.query_heads;
  const std::uint32_t mask = measured_statistics(pass.kind);
  const std::int64_t n = statistics_in(mask) * keys;
  const bool known = id >= 0 && id < static_cast<std::int64_t>(done.size()) && done[static_cast<std::size_t>(id)];
  if (!content.probes || in_pass || !known || pass.begin < 0 || pass.begin >= pass.end || pass.end > pass.first)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("sequence {}", id),
                                  .found = "a pass over its context",
                                  .expected = "one that was announced, over some tokens of a sequence that is done"});
  reserve(n * L * Hq * 4);
  Row row{}, commit{};
  row[probe_column::sequence] = static_cast<std::uint64_t>(id);
  row[probe_column::kind] = static_cast<std::uint64_t>(pass.kind);
  row[probe_column::number] = static_cast<std::uint64_t>(pass.number);
  row[probe_column::statistics] = mask;
  row[probe_column::begin] = static_cast<std::uint64_t>(pass.begin);
  row[probe_column::end] = static_cast<std::uint64_t>(pass.end);
  row[probe_column::sinks] = static_cast<std::uint64_t>(pass.sinks);
  row[probe_column::first] = static_cast<std::uint64_t>(pass.first);
  row[probe_column::fed] = static_cast<std::uint64_t>(pass.fed);
  row[probe_column::lead] = static_cast<std::uint64_t>(pass.lead);
  row[probe_column::first_row] = static_cast<std::uint64_t>(file->rows("probe"));
  row[probe_column::rows] = static_cast<std::uint64_t>(n);
  seal(row);
  std::vector<std::uint64_t> sums;
  const std::int64_t first = file->rows("probe");
  for (std::int64_t l = 0; l < L; ++l) {
    const Array<float, 2> layer = values(l);
    if (layer.extent(0) != n || layer.extent(1) != Hq)
      throw Error(Category::usage, {.doing = "recording a pass over a context",
                                    .found = fmt::format("[{}, {}] values", layer.extent(0), layer.extent(1)),
                                    .expected = fmt::format("[{}, {}]", n, Hq)});
    file->write_group("probe", l, 0, first, n, layer.data());
    sums.push_back(hash_bytes(layer.data(), n * Hq * 4));
  }
  commit[commit_column::sequence] = static_cast<std::uint64_t>(id);
  commit[commit_column::probe_row] = static_cast<std::uint64_t>(file->rows("probe_index"));
  file->append("probe_index", 1, row.data());
  file->append("probe_sums", 1, sums.data());
  commit[commit_column::tables_sum] = hash_bytes(row.data(), sizeof row);
  commit[commit_column::probe_sum] = hash_bytes(sums.data(), static_cast<std::int64_t>(sums.size()) * 8);
  file->commit(Stream::probe, commit);
}

void Recorder::probe(std::int64_t sequence, const ProbePass& pass, const ProbeRows& rows) {
  state_->guarded([&] { state_->probe(sequence, pass, rows); });
}

}  // namespace kvgrind::traces
