// One forward pass in the making: the joint batch of all feeds and its work buffers. Rows of the batch are the fed
// tokens of all feeds, one feed after the other; buffers are dense, one row a token.
#pragma once
#include <span>
#include <vector>

#include "core/parallel.h"
#include "core/view.h"
#include "sim/model/model.h"
#include "sim/model/runtime.h"

namespace kvgrind::sim {

// A matrix that keeps its memory from use to use; contents are undefined after shape().
class Buffer {
 public:
  View<float, 2> shape(std::int64_t rows, std::int64_t width) {
    const auto need = static_cast<std::size_t>(rows * width);
    if (values_.size() < need) values_ = std::vector<float>(need);
    return {values_.data(), {rows, width}};
  }

 private:
  std::vector<float> values_;
};

// The unit that attention is parallel over: a run of query rows of one head of one feed, or one row of several heads
// that read the same cache head.
struct AttentionTask {
  std::int64_t feed = 0, head = 0, heads = 1;
  std::int64_t begin = 0, end = 0;  // rows within the feed
};

struct Workspace {
  Buffer x, normed, qkv, q_pre, attended, delta, lse, gate_up, activated, last_x, last_attended, logits;
  std::vector<AttentionTask> tasks;
  std::vector<GroupView> groups;
};

struct Pass {
  const Model& model;
  std::span<const Feed> feeds;
  std::span<const RopeSet> rope;
  Workspace& work;
  std::vector<std::int64_t> row;                  // [feeds + 1] first row of each feed
  std::vector<std::int64_t> position;             // [rows]
  std::vector<std::vector<std::int64_t>> wanted;  // [feeds] rows within the feed whose logits are needed
  // What the taps read of the layer in work, as rows of the pass: does any of them need one?
  bool needs_q_pre = false, needs_lse = false;
  // The last layer's attention and MLP run for wanted rows only; their rows are all that is left of x then.
  bool last_wanted_only = true;

  // [rows, hidden]: the residual; the normed input of a sublayer; what the sublayer adds. After the attention of the
  // last layer only the wanted rows are left, unless a tap looks at others.
  View<float, 2> x{}, normed{}, delta{};

  std::int64_t rows() const { return row.back(); }
  std::int64_t rows(std::size_t feed) const { return row[feed + 1] - row[feed]; }
  bool only_wanted(std::int64_t layer) const { return last_wanted_only && layer + 1 == model.config.card.layers; }
};

// Asks the taps what they need of a layer.
void ask_taps(Pass& pass, std::int64_t layer);

// One decoder layer: reads and updates pass.x; what its MLP adds is left in pass.delta.
void run_layer(Pass& pass, std::int64_t layer);

// Attention of all feeds in one layer. q [rows, Hq, D] post-RoPE; out [rows, Hq·D]; lse [Hq, rows] or null data.
// Calls each cache's read and the taps' probabilities. Where only wanted rows matter, the others are left undefined.
void attend(Pass& pass, std::int64_t layer, View<const float, 3> q, View<float, 2> out, View<float, 2> lse);

// The wanted rows of all feeds, in order, copied together.
View<float, 2> wanted_rows(const Pass& pass, View<const float, 2> from, Buffer& to);

// f(begin, count) over blocks of rows, in parallel.
template <class F>
void parallel_rows(std::int64_t rows, F&& f) {
  constexpr std::int64_t block = 32;
  parallel_for((rows + block - 1) / block, [&](std::int64_t i) {
    const std::int64_t begin = i * block;
    f(begin, rows - begin < block ? rows - begin : block);
  });
}

// Columns [begin, begin + width) of a matrix.
inline View<float, 2> columns(View<float, 2> m, std::int64_t begin, std::int64_t width) {
  return {m.data() + begin, {m.extent(0), width}, {m.stride(0), 1}};
}

// The same columns as heads of D.
template <class T>
View<T, 3> heads(View<T, 2> m, std::int64_t begin, std::int64_t count, std::int64_t dim) {
  return {m.data() + begin, {m.extent(0), count, dim}, {m.stride(0), dim, 1}};
}

}  // namespace kvgrind::sim
