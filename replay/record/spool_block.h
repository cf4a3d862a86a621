// Blocks of a streaming recording: how the rows of one prompt layer, or of a few decode steps over all layers, lie in
// the spool, and what the writer thread makes of them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/model_card.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::replay {

// Where the parts of a block lie, in bytes from its beginning; each begins at a multiple of 256.
//   k, v [layers, Hk, rows, D]   q [queries, layers, Hq, D]   lse [rows, layers, Hq] f32
//   hidden_norm [rows, norms] f32   attn_in_norm [rows, layers] f32   logits [rows, vocab] f32
struct BlockShape {
  std::int64_t layers = 0, rows = 0, queries = 0, norms = 0, vocab = 0;
  std::int64_t k = 0, v = 0, q = 0, lse = 0, hidden_norm = 0, attn_in_norm = 0, logits = 0, size_bytes = 0;

  // `queries` of the rows are kept. norms = 0: neither LSE nor norms are there; vocab = 0: no logits.
  BlockShape(const ModelCard& card, std::int64_t layers, std::int64_t rows, std::int64_t queries, std::int64_t norms,
             std::int64_t vocab = 0);
};

// Shows blocks to a recorder, on the writer thread. Queries are shown at the rows of their pass: `kept`, ascending.
class BlockReader {
 public:
  BlockReader(traces::Recorder& recorder, const ModelCard& card) : recorder_(recorder), card_(card) {}
  // A layer of a prompt pass that has begun; shape.layers = norms = 1.
  void layer(const std::byte* block, const BlockShape& shape, std::int64_t layer,
             const std::vector<std::int32_t>& kept);
  // All layers and the end of a pass that has begun; shape.norms = layers + 1, or 0.
  void steps(const std::byte* block, const BlockShape& shape, const std::vector<std::int32_t>& kept);

 private:
  const std::byte* spread(const std::byte* queries, std::int64_t stride, std::int64_t rows,
                          const std::vector<std::int32_t>& kept);
  traces::Recorder& recorder_;
  const ModelCard& card_;
  std::vector<std::byte> spread_;  // queries of a layer at the rows of their pass
  std::vector<float> unknown_;     // NaN
};

}  // namespace kvgrind::replay
