#include "traces/kvt/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/hash.h"
#include "kernels/rope/rope.h"
#include "traces/kvt/attention_sums.h"
#include "traces/kvt/trace_state.h"

namespace kvgrind::traces {

using hdf5::read_fault;

namespace {

Error asked_for(const std::string& name, const std::string& found, const std::string& expected) {
  return Error(Category::usage, {.doing = "reading trace", .on = name, .found = found, .expected = expected});
}

std::int64_t checked_bytes(const hdf5::Dataset& dataset, std::int64_t rows, std::int64_t row_bytes) {
  const std::int64_t bytes = hdf5::checked_product({rows, row_bytes});
  if (bytes < 0 || bytes > hdf5::max_allocation_bytes)
    throw read_fault(dataset.on, fmt::format("{} rows to read at once", rows), "at most 2 GiB");
  return bytes;
}

void check_sum(const hdf5::Dataset& dataset, const void* data, std::int64_t bytes, std::uint64_t sum,
               const std::string& place) {
  if (hash_bytes(data, bytes) != sum)
    throw read_fault(dataset.on, "another checksum of " + place + " than committed", "an undamaged file");
}

}  // namespace

const SequenceParts& Trace::State::part(std::int64_t sequence) const {
  if (sequence < 0 || sequence >= static_cast<std::int64_t>(parts.size()))
    throw asked_for(name, fmt::format("sequence {}", sequence),
                    fmt::format("0 to {}", static_cast<std::int64_t>(parts.size()) - 1));
  return parts[static_cast<std::size_t>(sequence)];
}
void Trace::State::check_layer(std::int64_t layer) const {
  if (layer < 0 || layer >= layout.card.layers)
    throw asked_for(name, fmt::format("layer {}", layer), fmt::format("0 to {}", layout.card.layers - 1));
}
void Trace::State::check_head(std::int64_t head, std::int64_t heads) const {
  if (head < 0 || head >= heads) throw asked_for(name, fmt::format("head {}", head), fmt::format("0 to {}", heads - 1));
}

std::vector<Run> Trace::State::runs(std::int64_t sequence) const {
  const SequenceParts& one = part(sequence);
  std::vector<Run> out;
  if (one.info.parent >= 0 && one.info.tokens > 0) {
    for (Run run : runs(one.info.parent)) {
      run.n = std::min(run.n, one.info.fork_at - run.position);
      if (run.n > 0) out.push_back(run);
    }
  }
  out.insert(out.end(), one.own.begin(), one.own.end());
  return out;
}

std::pair<std::int64_t, std::int64_t> Trace::State::owner(std::int64_t sequence, std::int64_t segment) const {
  const SequenceParts* one = &part(sequence);
  while (segment < one->inherited) one = &part(one->info.parent);
  return {one->info.id, segment - one->inherited};
}

std::vector<std::byte> Trace::State::slice(const std::string& dataset_name, Axis axis, std::int64_t first,
                                           std::int64_t n, std::int64_t layer, std::int64_t head,
                                           std::int64_t column) const {
  const hdf5::Dataset& dataset = at(dataset_name);
  if (n == 0) return {};
  const int begin_column = axis == Axis::rows      ? commit_column::first_row
                           : axis == Axis::queries ? commit_column::first_query
                                                   : commit_column::first_byte;
  const auto begin_of = [&](const Row& row) { return signed_at(row, begin_column); };
  const auto end_of = [&](const Row& row) { return signed_at(row, begin_column) + signed_at(row, begin_column + 1); };
  // Commits that hold the rows: reading is widened to them, because checksums are over whole slices.
  const auto from = std::upper_bound(commits.tok.begin(), commits.tok.end(), first,
                                     [&](std::int64_t row, const Row& c) { return row < end_of(c); });
  auto to = from;
  while (to != commits.tok.end() && begin_of(*to) < first + n) ++to;
  assert(from != to);
  const std::int64_t low = begin_of(*from), high = end_of(*(to - 1));

  const bool group = layer >= 0, heads = group && dataset.extents.size() == 4;
  const std::int64_t row_bytes =
      group ? dataset.extents.back() * hdf5::element_bytes(dataset.element) : dataset.row_bytes;
  std::vector<std::byte> bytes(static_cast<std::size_t>(checked_bytes(dataset, high - low, row_bytes)));
  if (!group) {
    hdf5::read_rows(dataset, low, high - low, bytes.data());
  } else {
    std::vector<std::int64_t> box_at = {low, layer}, count = {high - low, 1};
    if (heads) box_at.push_back(head), count.push_back(1);
    box_at.push_back(0), count.push_back(dataset.extents.back());
    hdf5::read_box(dataset, box_at, count, bytes.data());
  }
  if (options.verify_checksums) {
    for (auto c = from; c != to; ++c) {
      const std::size_t place = static_cast<std::size_t>((c - commits.tok.begin()) * columns.size() + column);
      if (verified[place].load(std::memory_order_relaxed)) continue;
      check_sum(dataset, bytes.data() + (begin_of(*c) - low) * row_bytes, (end_of(*c) - begin_of(*c)) * row_bytes,
                sums[place],
                group ? fmt::format("rows {} to {}, layer {}, head {}", begin_of(*c), end_of(*c) - 1, layer, head)
                      : fmt::format("rows {} to {}", begin_of(*c), end_of(*c) - 1));
      verified[place].store(true, std::memory_order_relaxed);
    }
  }
  bytes.erase(bytes.begin(), bytes.begin() + (first - low) * row_bytes);
  bytes.resize(static_cast<std::size_t>(n * row_bytes));
  return bytes;
}

std::vector<std::byte> Trace::State::small(Small which, std::int64_t first, std::int64_t n) const {
  const Axis axis = which == Small::q_row ? Axis::queries : which == Small::text ? Axis::bytes : Axis::rows;
  return slice(small_name(which), axis, first, n, -1, -1, columns.small(which));
}

void Trace::State::read_group(const char* dataset, std::int64_t sequence, std::int64_t layer, std::int64_t head,
                              std::int64_t column, float* out) const {
  const bool typed = std::string(dataset) != "lse";
  for (const Run& run : runs(sequence)) {
    const std::vector<std::byte> bytes = slice(dataset, Axis::rows, run.row, run.n, layer, head, column);
    const DType dtype = typed ? layout.card.dtype : DType::f32;
    const std::int64_t n = static_cast<std::int64_t>(bytes.size()) / size_bytes(dtype);
    to_f32(dtype, bytes.data(), n, out);
    out += n;
  }
}

const std::filesystem::path& Trace::path() const { return state_->path; }
const ModelCard& Trace::card() const { return state_->layout.card; }
TraceState Trace::state() const { return state_->state; }
std::string Trace::hash() const { return state_->hash; }
const json::object& Trace::provenance() const { return state_->provenance; }
std::vector<std::string> Trace::not_recorded() const { return state_->not_recorded; }
std::int64_t Trace::rows() const { return state_->commits.rows; }
std::int64_t Trace::announced_rows() const { return state_->layout.announced_rows; }
const std::vector<SequenceInfo>& Trace::sequences() const { return state_->infos; }
double Trace::largest_mass_error() const { return state_->mass_error; }
std::int64_t Trace::commits() const {
  return static_cast<std::int64_t>(state_->commits.tok.size() + state_->commits.seg.size() +
                                   state_->commits.map.size() + state_->commits.probe.size());
}
std::int32_t Trace::next_token(std::int64_t sequence) const {
  return static_cast<std::int32_t>(state_->part(sequence).next_token);
}

std::vector<std::int32_t> Trace::tokens(std::int64_t sequence) const {
  return state_->small_rows<std::int32_t>(Small::tokens, sequence);
}
std::vector<float> Trace::nll(std::int64_t sequence) const {
  std::vector<float> out = state_->small_rows<float>(Small::nll, sequence);
  // The parent's last shared token was followed by another one there.
  const SequenceInfo& info = state_->part(sequence).info;
  if (info.parent >= 0 && info.fork_at > 0 && info.own_rows > 0) {
    const std::vector<std::int32_t> parent = tokens(info.parent), own = tokens(sequence);
    const std::size_t at = static_cast<std::size_t>(info.fork_at);
    if (at >= parent.size() || parent[at] != own[at]) out[at - 1] = std::numeric_limits<float>::quiet_NaN();
  }
  return out;
}

std::vector<std::string> Trace::token_bytes(std::int64_t sequence) const {
  if (!state_->layout.content.text) return {};
  std::vector<std::string> out;
  for (const Run& run : state_->runs(sequence)) {
    const std::int64_t before = run.row > 0 ? 1 : 0;
    const std::vector<std::byte> end_bytes = state_->small(Small::text_end, run.row - before, run.n + before);
    const std::int64_t* ends = reinterpret_cast<const std::int64_t*>(end_bytes.data());
    const std::int64_t first = before ? ends[0] : 0, last = ends[run.n + before - 1];
    if (first < 0 || last < first || last > state_->commits.bytes)
      throw read_fault(state_->at("text_end").on, "a place outside /text", "ascending places");
    const std::vector<std::byte> text = state_->small(Small::text, first, last - first);
    std::int64_t at = first;
    for (std::int64_t i = 0; i < run.n; ++i) {
      const std::int64_t end = ends[i + before];
      if (end < at || end > last)
        throw read_fault(state_->at("text_end").on, "a place that goes back", "ascending places");
      out.emplace_back(reinterpret_cast<const char*>(text.data()) + (at - first), static_cast<std::size_t>(end - at));
      at = end;
    }
  }
  return out;
}

Array<float, 2> Trace::keys(std::int64_t sequence, std::int64_t layer, std::int64_t head, KeyRope rope) const {
  const ModelCard& card = state_->layout.card;
  state_->check_layer(layer);
  state_->check_head(head, card.kv_heads);
  const std::int64_t tokens = state_->part(sequence).info.tokens;
  checked_bytes(state_->at("k"), tokens, card.head_dim * 4);
  Array<float, 2> out({tokens, card.head_dim});
  state_->read_group("k", sequence, layer, head, state_->columns.k(layer, head), out.data());
  if (rope == KeyRope::pre && !card.rope.empty() && tokens > 0) {
    std::vector<std::int64_t> position(static_cast<std::size_t>(tokens));
    std::iota(position.begin(), position.end(), 0);
    const RopeSet& set = card.rope[static_cast<std::size_t>(card.layer[static_cast<std::size_t>(layer)].rope_set)];
    kernels::rope_undo(set, position, View<float, 3>(out.data(), {tokens, 1, card.head_dim}));
  }
  return out;
}

Array<float, 2> Trace::values(std::int64_t sequence, std::int64_t layer, std::int64_t head) const {
  const ModelCard& card = state_->layout.card;
  state_->check_layer(layer);
  state_->check_head(head, card.kv_heads);
  const std::int64_t tokens = state_->part(sequence).info.tokens;
  checked_bytes(state_->at("v"), tokens, card.head_dim * 4);
  Array<float, 2> out({tokens, card.head_dim});
  state_->read_group("v", sequence, layer, head, state_->columns.v(layer, head), out.data());
  return out;
}

RecordedQueries Trace::queries(std::int64_t sequence, std::int64_t layer, std::int64_t head) const {
  const ModelCard& card = state_->layout.card;
  state_->check_layer(layer);
  state_->check_head(head, card.query_heads);
  RecordedQueries out;
  if (!state_->layout.content.queries) {
    state_->part(sequence);
    out.q = Array<float, 2>({0, card.head_dim});
    return out;
  }
  std::vector<float> values;
  const std::vector<std::int64_t>& q_row = state_->q_row;
  for (const Run& run : state_->runs(sequence)) {
    const auto a = std::lower_bound(q_row.begin(), q_row.end(), run.row);
    const auto b = std::lower_bound(a, q_row.end(), run.row + run.n);
    if (a == b) continue;
    const std::int64_t n = b - a;
    const std::vector<std::byte> bytes =
        state_->slice("q", State::Axis::queries, a - q_row.begin(), n, layer, head, state_->columns.q(layer, head));
    checked_bytes(state_->at("q"), static_cast<std::int64_t>(out.position.size()) + n, card.head_dim * 4);
    const std::size_t before = values.size();
    values.resize(before + static_cast<std::size_t>(n * card.head_dim));
    to_f32(card.dtype, bytes.data(), n * card.head_dim, values.data() + before);
    for (auto it = a; it != b; ++it) out.position.push_back(run.position + *it - run.row);
  }
  out.q = Array<float, 2>({static_cast<std::int64_t>(out.position.size()), card.head_dim});
  std::copy(values.begin(), values.end(), out.q.data());
  return out;
}

bool Trace::has_queries(std::int64_t sequence, std::int64_t first, std::int64_t n) const {
  if (first < 0 || n < 0 || first + n > state_->part(sequence).info.tokens) return false;
  const std::vector<std::int64_t>& q_row = state_->q_row;
  for (const Run& run : state_->runs(sequence)) {
    const std::int64_t low = std::max(first, run.position), high = std::min(first + n, run.position + run.n);
    if (low >= high) continue;
    const auto a = std::lower_bound(q_row.begin(), q_row.end(), run.row + low - run.position);
    const auto b = std::lower_bound(a, q_row.end(), run.row + high - run.position);
    if (b - a != high - low) return false;
  }
  return true;
}

Array<float, 2> Trace::lse(std::int64_t sequence, std::int64_t layer) const {
  state_->check_layer(layer);
  const std::int64_t tokens = state_->part(sequence).info.tokens, heads = state_->layout.card.query_heads;
  checked_bytes(state_->at("lse"), tokens, heads * 4);
  Array<float, 2> out({tokens, heads});
  state_->read_group("lse", sequence, layer, 0, state_->columns.lse(layer), out.data());
  return out;
}

namespace {

// One column of a small per-token dataset with several.
template <class T>
std::vector<T> column_of(const std::vector<T>& rows, std::int64_t width, std::int64_t column) {
  std::vector<T> out;
  for (std::size_t i = static_cast<std::size_t>(column); i < rows.size(); i += static_cast<std::size_t>(width))
    out.push_back(rows[i]);
  return out;
}

}  // namespace

std::vector<float> Trace::hidden_norm(std::int64_t sequence, std::int64_t layer) const {
  const std::int64_t width = state_->layout.card.layers + 1;
  state_->check_head(layer, width);
  return column_of(state_->small_rows<float>(Small::hidden_norm, sequence), width, layer);
}
std::vector<float> Trace::attention_input_norm(std::int64_t sequence, std::int64_t layer) const {
  state_->check_layer(layer);
  return column_of(state_->small_rows<float>(Small::attn_in_norm, sequence), state_->layout.card.layers, layer);
}

Array<std::int32_t, 2> Trace::top_ids(std::int64_t sequence) const {
  const std::int64_t tokens = state_->layout.content.logits_top64 ? state_->part(sequence).info.tokens : 0;
  Array<std::int32_t, 2> out({tokens, top_tokens});
  if (tokens == 0) return out;
  const std::vector<std::int32_t> rows = state_->small_rows<std::int32_t>(Small::top_id, sequence);
  std::copy(rows.begin(), rows.end(), out.data());
  return out;
}
Array<float, 2> Trace::top_log_probabilities(std::int64_t sequence) const {
  const std::int64_t tokens = state_->layout.content.logits_top64 ? state_->part(sequence).info.tokens : 0;
  Array<float, 2> out({tokens, top_tokens});
  if (tokens == 0) return out;
  const std::vector<float> rows = state_->small_rows<float>(Small::top_logp, sequence);
  std::copy(rows.begin(), rows.end(), out.data());
  return out;
}

std::vector<std::byte> read_output_projection(const Trace::State& s, std::int64_t layer) {
  const hdf5::Dataset& dataset = s.at("w_o");
  std::vector<std::byte> bytes(static_cast<std::size_t>(checked_bytes(dataset, 1, dataset.row_bytes)));
  hdf5::read_rows(dataset, layer, 1, bytes.data());
  std::uint64_t sum = 0;
  hdf5::read_rows(s.at("w_o_sums"), layer, 1, &sum);
  if (s.options.verify_checksums)
    check_sum(dataset, bytes.data(), static_cast<std::int64_t>(bytes.size()), sum, fmt::format("layer {}", layer));
  return bytes;
}

std::optional<Array<float, 2>> Trace::output_projection(std::int64_t layer) const {
  state_->check_layer(layer);
  if (!state_->layout.content.output_projection) return std::nullopt;
  const ModelCard& card = state_->layout.card;
  const std::vector<std::byte> bytes = read_output_projection(*state_, layer);
  Array<float, 2> out({card.hidden, card.query_heads * card.head_dim});
  const hdf5::Element element = state_->at("w_o").element;
  const DType dtype = element == hdf5::Element::f32   ? DType::f32
                      : element == hdf5::Element::f16 ? DType::f16
                                                      : DType::bf16;
  to_f32(dtype, bytes.data(), out.size(), out.data());
  return out;
}

}  // namespace kvgrind::traces
