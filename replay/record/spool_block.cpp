#include "replay/record/spool_block.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace kvgrind::replay {
namespace {

const float* floats(const std::byte* block, std::int64_t at) { return reinterpret_cast<const float*>(block + at); }

}  // namespace

BlockShape::BlockShape(const ModelCard& card, std::int64_t in_layers, std::int64_t in_rows, std::int64_t in_queries,
                       std::int64_t in_norms, std::int64_t in_vocab)
    : layers(in_layers), rows(in_rows), queries(in_queries), norms(in_norms), vocab(in_vocab) {
  const std::int64_t row = card.head_dim * kvgrind::size_bytes(card.dtype);
  const auto place = [this](std::int64_t bytes) {
    const std::int64_t at = size_bytes;
    size_bytes += (bytes + 255) / 256 * 256;
    return at;
  };
  k = place(layers * card.kv_heads * rows * row);
  v = place(layers * card.kv_heads * rows * row);
  q = place(layers * card.query_heads * queries * row);
  const std::int64_t known = norms > 0 ? rows : 0;
  lse = place(layers * card.query_heads * known * 4);
  hidden_norm = place(norms * known * 4);
  attn_in_norm = place(layers * known * 4);
  logits = place(rows * vocab * 4);
}

const std::byte* BlockReader::spread(const std::byte* queries, std::int64_t stride, std::int64_t rows,
                                     const std::vector<std::int32_t>& kept) {
  const std::int64_t row = card_.query_heads * card_.head_dim * size_bytes(card_.dtype);
  if (spread_.size() < static_cast<std::size_t>(rows * row)) spread_.resize(static_cast<std::size_t>(rows * row));
  for (std::size_t i = 0; i < kept.size(); ++i)
    std::copy_n(queries + static_cast<std::int64_t>(i) * stride, row, spread_.data() + kept[i] * row);
  return spread_.data();
}

void BlockReader::layer(const std::byte* block, const BlockShape& shape, std::int64_t layer,
                        const std::vector<std::int32_t>& kept) {
  const std::int64_t dim = card_.head_dim, width = card_.query_heads * dim, rows = shape.rows;
  TapLayer tap;
  tap.layer = layer;
  tap.rows_q = {card_.dtype, spread(block + shape.q, width * size_bytes(card_.dtype), rows, kept), width, dim};
  tap.rows_k = {card_.dtype, block + shape.k, dim, rows * dim};
  tap.rows_v = {card_.dtype, block + shape.v, dim, rows * dim};
  tap.lse = {floats(block, shape.lse), {rows, card_.query_heads}};
  tap.input = {floats(block, shape.hidden_norm), {rows, 1}};
  tap.attn_in = {floats(block, shape.attn_in_norm), {rows, 1}};
  recorder_.layer(tap);
}

void BlockReader::steps(const std::byte* block, const BlockShape& shape, const std::vector<std::int32_t>& kept) {
  const std::int64_t L = card_.layers, dim = card_.head_dim, heads = card_.query_heads, rows = shape.rows;
  const std::int64_t element = size_bytes(card_.dtype), width = heads * dim;
  const bool known = shape.norms > 0;
  if (!known) unknown_.resize(static_cast<std::size_t>(rows * heads), std::numeric_limits<float>::quiet_NaN());
  for (std::int64_t l = 0; l < L; ++l) {
    const std::int64_t group = l * card_.kv_heads * rows * dim * element;
    TapLayer tap;
    tap.layer = l;
    if (!kept.empty())
      tap.rows_q = {card_.dtype, spread(block + shape.q + l * width * element, L * width * element, rows, kept), width,
                    dim};
    tap.rows_k = {card_.dtype, block + shape.k + group, dim, rows * dim};
    tap.rows_v = {card_.dtype, block + shape.v + group, dim, rows * dim};
    if (known) {
      tap.lse = {floats(block, shape.lse) + l * heads, {rows, heads}, {L * heads, 1}};
      tap.input = {floats(block, shape.hidden_norm) + l, {rows, 1}, {L + 1, 1}};
      tap.attn_in = {floats(block, shape.attn_in_norm) + l, {rows, 1}, {L, 1}};
    } else {
      tap.lse = {unknown_.data(), {rows, heads}};
    }
    recorder_.layer(tap);
  }
  TapEnd end;
  if (known) end.final_residual = {floats(block, shape.hidden_norm) + L, {rows, 1}, {L + 1, 1}};
  std::vector<std::int64_t> every(static_cast<std::size_t>(shape.vocab > 0 ? rows : 0));
  std::iota(every.begin(), every.end(), 0);
  if (shape.vocab > 0) {
    end.logits = {floats(block, shape.logits), {rows, shape.vocab}};
    end.logit_rows = every;
  }
  recorder_.end(end);
}

}  // namespace kvgrind::replay
