// What goes through the spool from a host process to its writer. Both ends are of one build; the spool's first page
// carries a version all the same.
//
// A message is a header, a body and payloads; every payload begins at a multiple of 256 bytes from the message's begin.
#pragma once
#include <cstdint>

namespace kvgrind::traces::wire {

inline constexpr std::uint32_t version = 1;
inline constexpr std::int64_t alignment = 256;
inline std::int64_t aligned(std::int64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

enum class Kind : std::uint32_t {
  skip,  // the rest of the ring is unused: go on at its begin
  tokens,
  output_projection,
  open,
  describe,
  begin,
  layer,
  end,
  column_sums,
  done,
  remark,
  close,
};

struct Header {
  Kind kind = Kind::skip;
  std::uint32_t reserved = 0;
  std::int64_t size_bytes = 0;  // of the whole message, a multiple of `alignment`
};

struct Text {  // open, describe, remark
  std::int64_t number = 0, bytes = 0, at = 0;
};
struct Tokens {
  std::int64_t tokens = 0, text_bytes = 0, end_at = 0, text_at = 0;
};
struct OutputProjection {
  std::int64_t layer = 0, hidden = 0, width = 0, dtype = 0, at = 0;
};

enum class QueryUse : std::uint8_t { not_sent, kept, counted };  // counted: for statistics only

struct Part {
  std::int64_t sequence = 0, first = 0, n = 0, queries = 0;  // queries: rows of q that are sent
};
// ids [rows] of id_bytes each; use [rows] of QueryUse.
struct Begin {
  std::int64_t parts = 0, rows = 0, queries = 0, id_bytes = 4, decode = 0;
  std::int64_t parts_at = 0, ids_at = 0, use_at = 0;
};
// Per part, one behind the other: k, v [Hk, n, D], q [queries, Hq, D], lse [n, Hq], norms [n].
struct Layer {
  std::int64_t layer = 0;
  std::int64_t k_at = 0, v_at = 0, q_at = 0, lse_at = 0, hidden_norm_at = -1, attn_in_norm_at = -1;
};
struct End {
  std::int64_t logit_rows = 0, vocab = 0, logits_dtype = 0, logit_row_at = 0, logits_at = 0;
  std::int64_t hidden_norm_at = -1, attn_in_norm_at = -1;  // [rows, L + 1] and [rows, L]
};
struct ColumnSums {
  std::int64_t sequence = 0, layer = 0, segment = -1, keys = 0, at = 0;
};
struct Done {
  std::int64_t sequence = 0, next_token = -1;
};
struct Close {
  std::int64_t finish = 1;  // 0: interrupt
};

}  // namespace kvgrind::traces::wire
