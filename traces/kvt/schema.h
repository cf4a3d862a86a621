// What lies in a `.kvt`, in one place: dataset names, types and shapes, commit rows, checksums. SCHEMA.md says the
// same in words.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/model_card.h"
#include "traces/kvt/hdf5.h"

namespace kvgrind::traces {

inline constexpr const char* format_name = "kvgrind-trace";
inline constexpr std::int64_t format_major = 1, format_minor = 0;
inline constexpr std::int64_t not_recorded_bytes = 8192;
inline constexpr std::int64_t max_blob_bytes = 100ll << 20;
inline constexpr std::int64_t top_tokens = 64;
inline constexpr std::int64_t page_bytes = 4096;    // of the file's space; see hdf5.cpp on why there are pages
inline constexpr int recorded_segments = 4;         // column sums and query statistics: at most so many a sequence
inline constexpr std::int64_t map_side = 256;

// Table rows: 16 little-endian u64; the last is XXH3-64 of the 15 before it. −1 is stored as 2^64 − 1.
using Row = std::array<std::uint64_t, 16>;
void seal(Row& row);
bool sealed(const Row& row);
inline std::int64_t signed_at(const Row& row, int column) { return static_cast<std::int64_t>(row[column]); }

enum class Stream : std::uint64_t { tok = 1, seg = 2, map = 3, probe = 4 };

// Commit row columns. 0 stream, 1 number within the stream, 14 column 15 of the stream's row before (0 for the first).
namespace commit_column {
inline constexpr int stream = 0, number = 1, chain = 14;
// tok
inline constexpr int first_row = 2, rows = 3, first_query = 4, queries = 5, first_byte = 6, bytes = 7;
inline constexpr int k_sum = 8, v_sum = 9, q_sum = 10, lse_sum = 11, small_sum = 12, tok_sequence = 13;
// seg
inline constexpr int sequence = 2, sequence_row = 3, first_extent = 4, extents = 5, first_block = 6, blocks = 7;
inline constexpr int first_statistic = 8, statistics = 9, tables_sum = 10, colsum_sum = 11, qstat_sum = 12;
// map: sequence, then
inline constexpr int map_row = 3, map_sum = 11;  // tables_sum: of its map_index row
// probe: sequence, then
inline constexpr int probe_row = 3, probe_sum = 11;  // tables_sum: of its probe_index row
}  // namespace commit_column

namespace sequence_column {
inline constexpr int id = 0, parent = 1, fork_at = 2, first_row = 3, rows = 4, announced = 5, decode = 6;
inline constexpr int next_token = 7, first_segment = 8, segments = 9, first_span = 10, spans = 11, done = 12;
}  // namespace sequence_column
namespace segment_column {
inline constexpr int sequence = 0, role = 1, begin = 2, end = 3;
}
namespace span_column {  // kind and label lie in /names
inline constexpr int sequence = 0, begin = 1, end = 2, kind = 3, kind_bytes = 4, label = 5, label_bytes = 6;
}
namespace extent_column {
inline constexpr int sequence = 0, first_row = 1, rows = 2, first_position = 3;
}
namespace block_column {  // colsum_index; qstat_index has sequence, segment, begin, end, n in the same columns
inline constexpr int sequence = 0, segment = 1, begin = 2, end = 3, n = 4, first_row = 5, rows = 6;
}
namespace map_column {
inline constexpr int sequence = 0, first_query = 1, tokens = 2, cell = 3, side = 4, first_byte = 5, bytes = 6;
}

namespace probe_column {
inline constexpr int sequence = 0, kind = 1, number = 2, statistics = 3, begin = 4, end = 5, sinks = 6, first = 7;
inline constexpr int fed = 8, lead = 9, first_row = 10, rows = 11;
}  // namespace probe_column

enum class StatusCode : std::uint64_t { unfinished = 0, complete = 1, truncated_disk_full = 2, interrupted = 3 };
namespace status_column {
inline constexpr int state = 0, rows = 1, commits = 2, announced = 3, start_ms = 4, end_ms = 5, mass_error = 6, sum = 7;
}

struct Content {
  bool queries = true, column_sums = true, query_statistics = true, pooled_maps = true, logits_top64 = true;
  bool output_projection = true, text = true;
  bool probes = false;  // absent in the header = false
  bool operator==(const Content&) const = default;
};

// Everything that fixes the datasets' shapes and chunks.
struct Layout {
  ModelCard card;
  Content content;
  std::int64_t announced_rows = 0;  // 0 = unknown
  std::int64_t announced_queries = 0;
  std::int64_t announced_text_bytes = 0;
  std::int64_t announced_sequences = 0;
  std::int64_t announced_blocks = 0, announced_block_rows = 0;  // column sums
  std::int64_t announced_statistics = 0;
  std::int64_t announced_map_bytes = 0;
  std::int64_t announced_probes = 0, announced_probe_rows = 0;
  std::int64_t announced_commits = 0;                 // tok
  std::int64_t chunk_rows = 0;                        // C
  hdf5::Element output_element = hdf5::Element::f32;  // of w_o
};

// Rows of a chunk for about `rows` rows of `row_bytes` each: a multiple of 16, at most `most` rows and 1 MiB, the
// largest whose padding (of the last chunk, and of each to whole pages) is at most 1 %, or next to the least possible.
std::int64_t chunk_rows_for(std::int64_t rows, std::int64_t row_bytes, std::int64_t most);
// C: as above, and no more than an eighth of the run (but 64), nor more than 512 MiB of buffers for all layers.
std::int64_t token_chunk_rows(const ModelCard& card, std::int64_t rows);

hdf5::Element element_of(DType dtype);

// The datasets of a file with this layout, in the order of creation. Extents of growing ones are 0 on axis 0.
std::vector<hdf5::DatasetSpec> dataset_specs(const Layout& layout);
hdf5::DatasetSpec status_spec();

// Per-token datasets other than k, v, q, lse: their slices' checksums are the last columns of tok_sums, in this order.
enum class Small : int { tokens, pos, seq, nll, hidden_norm, attn_in_norm, top_id, top_logp, text, text_end, q_row };
inline constexpr int small_count = 11;
const char* small_name(Small small);
bool has_small(const Content& content, Small small);

// Columns of tok_sums: k [L·Hk], v [L·Hk], q [L·Hq], lse [L], then the small ones.
struct SumColumns {
  std::int64_t layers, kv_heads, query_heads;
  std::int64_t k(std::int64_t layer, std::int64_t head) const { return layer * kv_heads + head; }
  std::int64_t v(std::int64_t layer, std::int64_t head) const { return layers * kv_heads + k(layer, head); }
  std::int64_t q(std::int64_t layer, std::int64_t head) const {
    return 2 * layers * kv_heads + layer * query_heads + head;
  }
  std::int64_t lse(std::int64_t layer) const { return layers * (2 * kv_heads + query_heads) + layer; }
  std::int64_t small(Small which) const { return lse(layers) + static_cast<int>(which); }
  std::int64_t size() const { return lse(layers) + small_count; }
};
SumColumns sum_columns(const ModelCard& card);
// Columns 8 to 12 of a tok commit row from its row of tok_sums.
void fold_token_sums(const SumColumns& columns, std::span<const std::uint64_t> sums, Row& commit);

json::object header_json(const Layout& layout, const json::object& queries);
// Content, announced rows and output element of a header; Error(damaged) names `on`.
void parse_header(const json::value& header, const std::string& on, Layout& layout);

json::object card_json(const ModelCard& card);
ModelCard parse_card(const json::value& card, const std::string& on);  // checked for consistency; Error(damaged)

// Log-quantised attention: 0 = exactly 0 or too small, 255 = NaN, else 10^(6 (c − 254) / 253).
std::uint8_t quantise_attention(float p);
float dequantise_attention(std::uint8_t code);

}  // namespace kvgrind::traces
