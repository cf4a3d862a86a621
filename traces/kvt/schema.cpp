#include "traces/kvt/schema.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "core/hash.h"

namespace kvgrind::traces {

using hdf5::DatasetSpec;
using hdf5::Element;

void seal(Row& row) { row[15] = hash_bytes(row.data(), 15 * 8); }
bool sealed(const Row& row) { return row[15] == hash_bytes(row.data(), 15 * 8); }

std::int64_t chunk_rows_for(std::int64_t rows, std::int64_t row_bytes, std::int64_t most) {
  row_bytes = std::max<std::int64_t>(row_bytes, 1);
  most = std::max<std::int64_t>(16, std::min(most, (std::int64_t{1} << 20) / row_bytes) / 16 * 16);
  if (rows <= 0) return std::min<std::int64_t>(most, 256);
  // Bytes on disk: whole chunks, those above a page in whole pages.
  const auto waste = [&](std::int64_t chunk) {
    std::int64_t bytes = chunk * row_bytes;
    if (bytes > page_bytes) bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes;
    return (rows + chunk - 1) / chunk * bytes - rows * row_bytes;
  };
  const std::int64_t top = std::min(most, (rows + 15) / 16 * 16);
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t chunk = 16; chunk <= top; chunk += 16) least = std::min(least, waste(chunk));
  const std::int64_t limit = std::max(rows * row_bytes / 100, least + least / 20);
  std::int64_t best = top;
  while (waste(best) > limit) best -= 16;
  return best;
}

std::int64_t token_chunk_rows(const ModelCard& card, std::int64_t rows) {
  const std::int64_t element = size_bytes(card.dtype);
  const std::int64_t token = card.layers * (2 * card.kv_heads + card.query_heads) * card.head_dim * element +
                             card.layers * card.query_heads * 4;
  std::int64_t most = std::max<std::int64_t>(16, (std::int64_t{512} << 20) / std::max<std::int64_t>(token, 1));
  if (rows > 0) most = std::min(most, std::max<std::int64_t>(64, (rows / 8 + 15) / 16 * 16));
  return chunk_rows_for(rows, card.head_dim * element, most);
}

Element element_of(DType dtype) {
  return dtype == DType::f32 ? Element::f32 : dtype == DType::f16 ? Element::f16 : Element::bf16;
}

DatasetSpec status_spec() { return {.name = "status", .element = Element::u64, .extents = {1, 8}, .chunk = {}}; }

std::vector<DatasetSpec> dataset_specs(const Layout& layout) {
  const ModelCard& card = layout.card;
  const std::int64_t L = card.layers, Hq = card.query_heads, Hk = card.kv_heads, D = card.head_dim;
  const std::int64_t N = layout.announced_rows, C = layout.chunk_rows;
  const Element element = element_of(card.dtype);
  const Content& content = layout.content;
  std::vector<DatasetSpec> specs;

  // rows: the announced number; the inner extents are whole in every chunk.
  const auto table = [&](const char* name, Element type, std::vector<std::int64_t> inner, std::int64_t rows,
                         std::int64_t most = std::int64_t{1} << 20) {
    std::int64_t row_bytes = hdf5::element_bytes(type);
    for (const std::int64_t n : inner) row_bytes *= n;
    DatasetSpec spec{.name = name, .element = type, .extents = inner, .chunk = inner};
    spec.extents.insert(spec.extents.begin(), 0);
    spec.chunk.insert(spec.chunk.begin(), chunk_rows_for(rows, row_bytes, most));
    specs.push_back(std::move(spec));
  };

  table("commit", Element::u64, {16},
        layout.announced_commits + 2 * layout.announced_sequences + layout.announced_probes);
  specs.push_back(status_spec());
  table("sequence", Element::u64, {16}, 2 * layout.announced_sequences);
  table("segment", Element::u64, {16}, 2 * layout.announced_sequences);
  table("span", Element::u64, {16}, layout.announced_sequences);
  table("extent", Element::u64, {16}, layout.announced_sequences);

  specs.push_back({.name = "k", .element = element, .extents = {0, L, Hk, D}, .chunk = {C, 1, 1, D}});
  specs.push_back({.name = "v", .element = element, .extents = {0, L, Hk, D}, .chunk = {C, 1, 1, D}});
  if (content.queries) {
    const std::int64_t rows = chunk_rows_for(layout.announced_queries, D * hdf5::element_bytes(element), C);
    specs.push_back({.name = "q", .element = element, .extents = {0, L, Hq, D}, .chunk = {rows, 1, 1, D}});
    table("q_row", Element::i64, {}, layout.announced_queries);
  }
  specs.push_back({.name = "lse",
                   .element = Element::f32,
                   .extents = {0, L, Hq},
                   .chunk = {chunk_rows_for(N, Hq * 4, 1024), 1, Hq}});
  table("tokens", Element::i32, {}, N);
  table("pos", Element::i64, {}, N);
  table("seq", Element::i32, {}, N);
  table("nll", Element::f32, {}, N);
  table("hidden_norm", Element::f32, {L + 1}, N);
  table("attn_in_norm", Element::f32, {L}, N);
  if (content.logits_top64) {
    table("top_id", Element::i32, {top_tokens}, N);
    table("top_logp", Element::f32, {top_tokens}, N);
  }
  if (content.text) {
    table("text", Element::u8, {}, layout.announced_text_bytes);
    table("text_end", Element::i64, {}, N);
  }
  table("tok_sums", Element::u64, {sum_columns(card).size()}, layout.announced_commits);

  if (content.column_sums) {
    specs.push_back({.name = "colsum",
                     .element = Element::f32,
                     .extents = {0, L, Hq},
                     .chunk = {chunk_rows_for(layout.announced_block_rows, Hq * 4, 1024), 1, Hq}});
    table("colsum_index", Element::u64, {16}, layout.announced_blocks);
    table("colsum_sums", Element::u64, {L}, layout.announced_blocks);
  }
  if (content.query_statistics) {
    const std::int64_t half = D / 2;
    specs.push_back({.name = "qstat_mean", .element = Element::f32, .extents = {0, L, Hq, D}, .chunk = {1, L, Hq, D}});
    specs.push_back(
        {.name = "qstat_modulus", .element = Element::f32, .extents = {0, L, Hq, half}, .chunk = {1, L, Hq, half}});
    specs.push_back(
        {.name = "qstat_second", .element = Element::f32, .extents = {0, L, Hq, D, D}, .chunk = {1, 1, 1, D, D}});
    table("qstat_index", Element::u64, {16}, layout.announced_statistics);
    table("qstat_sums", Element::u64, {3 * L}, layout.announced_statistics);
  }
  if (content.pooled_maps) {
    table("map_max", Element::u8, {}, layout.announced_map_bytes);
    table("map_mean", Element::u8, {}, layout.announced_map_bytes);
    table("map_index", Element::u64, {16}, layout.announced_sequences);
    table("map_sums", Element::u64, {2 * L}, layout.announced_sequences);
  }
  if (content.probes) {
    specs.push_back({.name = "probe",
                     .element = Element::f32,
                     .extents = {0, L, Hq},
                     .chunk = {chunk_rows_for(layout.announced_probe_rows, Hq * 4, 1024), 1, Hq}});
    table("probe_index", Element::u64, {16}, layout.announced_probes);
    table("probe_sums", Element::u64, {L}, layout.announced_probes);
  }
  if (content.output_projection) {
    specs.push_back(
        {.name = "w_o", .element = layout.output_element, .extents = {L, card.hidden, Hq * D}, .chunk = {}});
    specs.push_back({.name = "w_o_sums", .element = Element::u64, .extents = {L}, .chunk = {}});
  }
  return specs;
}

const char* small_name(Small small) {
  static constexpr const char* names[small_count] = {
      "tokens", "pos", "seq", "nll", "hidden_norm", "attn_in_norm", "top_id", "top_logp", "text", "text_end", "q_row"};
  return names[static_cast<int>(small)];
}

bool has_small(const Content& content, Small small) {
  switch (small) {
    case Small::top_id:
    case Small::top_logp:
      return content.logits_top64;
    case Small::text:
    case Small::text_end:
      return content.text;
    case Small::q_row:
      return content.queries;
    default:
      return true;
  }
}

SumColumns sum_columns(const ModelCard& card) { return {card.layers, card.kv_heads, card.query_heads}; }

void fold_token_sums(const SumColumns& columns, std::span<const std::uint64_t> sums, Row& commit) {
  const std::int64_t bounds[6] = {
      0, columns.v(0, 0), columns.q(0, 0), columns.lse(0), columns.lse(columns.layers), columns.size()};
  assert(static_cast<std::int64_t>(sums.size()) == columns.size());
  for (int i = 0; i < 5; ++i)
    commit[static_cast<std::size_t>(commit_column::k_sum + i)] =
        hash_bytes(sums.data() + bounds[i], (bounds[i + 1] - bounds[i]) * 8);
}

std::uint8_t quantise_attention(float p) {
  if (std::isnan(p)) return 255;
  if (!(p > 0.0f)) return 0;
  const double code = 254.0 + 253.0 / 6.0 * std::log10(static_cast<double>(p));
  const double rounded = std::nearbyint(code);
  return rounded < 1.0 ? 0 : rounded > 254.0 ? 254 : static_cast<std::uint8_t>(rounded);
}

float dequantise_attention(std::uint8_t code) {
  if (code == 255) return std::numeric_limits<float>::quiet_NaN();
  return code == 0 ? 0.0f : static_cast<float>(std::pow(10.0, 6.0 * (code - 254) / 253.0));
}

}  // namespace kvgrind::traces
