#include "kernels/attention/attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "core/array.h"
#include "kernels/isa/isa.h"

namespace kvgrind::kernels {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

// Which rows of a block see each key, and per tile of keys whether none, some or all pairs are visible.
struct Visibility {
  std::vector<std::int32_t> first_row, end_row;
  std::vector<std::uint8_t> tile_state;

  explicit Visibility(std::int64_t n_k)
      : first_row(static_cast<std::size_t>(n_k)),
        end_row(static_cast<std::size_t>(n_k)),
        tile_state(static_cast<std::size_t>((n_k + attention_tile - 1) / attention_tile)) {}

  void fill(const AttentionParams& a, std::int64_t first_position, std::int64_t rows, bool same_position) {
    const auto n_k = static_cast<std::int64_t>(first_row.size());
    for (std::int64_t begin = 0, tile = 0; begin < n_k; begin += attention_tile, ++tile) {
      bool some = false, all = true;
      for (std::int64_t j = begin; j < std::min(n_k, begin + attention_tile); ++j) {
        const std::int64_t from = a.k_position[static_cast<std::size_t>(j)] - first_position;
        std::int64_t lo = std::clamp<std::int64_t>(from, 0, rows);
        std::int64_t hi = a.window == 0 ? rows : std::clamp<std::int64_t>(from + a.window, 0, rows);
        if (same_position) {  // all rows see the key, or none
          const bool seen = from <= 0 && (a.window == 0 || from + a.window > 0);
          lo = seen ? 0 : rows;
          hi = rows;
        }
        first_row[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(lo);
        end_row[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(hi);
        some |= lo < hi;
        all &= lo == 0 && hi == rows;
      }
      tile_state[static_cast<std::size_t>(tile)] = !some ? 0 : all ? 2 : 1;
    }
  }
};

// Rows whose elements lie side by side; copies where they do not.
View<const float, 2> with_dense_rows(View<const float, 2> from, Array<float, 2>& copy) {
  if (from.stride(1) == 1) return from;
  copy = Array<float, 2>(from.extents());
  for (std::int64_t i = 0; i < from.extent(0); ++i)
    for (std::int64_t d = 0; d < from.extent(1); ++d) copy(i, d) = from(i, d);
  return copy.view();
}

bool finite(View<const float, 1> x) {
  bool all = true;
  for (std::int64_t i = 0; i < x.extent(0); ++i) all &= std::isfinite(x(i));
  return all;
}

class Run {
 public:
  Run(const AttentionParams& params, bool same_position)
      : a_(params),
        same_position_(same_position),
        q_(with_dense_rows(params.q, q_copy_)),
        k_(with_dense_rows(params.k, k_copy_)),
        v_(params.out.data() ? with_dense_rows(params.v, v_copy_) : View<const float, 2>()),
        visibility_(params.k.extent(0)),
        scratch_(new float[static_cast<std::size_t>(attention_scratch(params.q.extent(1)))]) {}

  void block(std::int64_t begin, std::int64_t rows) {
    const std::int64_t n_k = k_.extent(0), dims = q_.extent(1);
    visibility_.fill(a_, a_.q_position[static_cast<std::size_t>(begin)], rows, same_position_);
    const std::int64_t row_stride = kernels_.attention_row_stride(rows);
    if (a_.probabilities) logits_.resize(static_cast<std::size_t>(n_k * row_stride));
    if (a_.out.data()) out_.resize(static_cast<std::size_t>(rows * dims));
    kernels_.attention(task(begin, rows, a_.probabilities ? logits_.data() : nullptr, out_.data()));
    for (std::int64_t i = 0; i < rows && a_.lse; ++i)
      a_.lse[begin + i] = sum_[i] == 0.0f ? minus_infinity : largest_[i] + std::log(sum_[i]);
    if (a_.out.data())
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t d = 0; d < dims; ++d) a_.out(begin + i, d) = out_[static_cast<std::size_t>(i * dims + d)];
    if (a_.probabilities) probabilities(begin, rows, row_stride);
    if (a_.out.data()) repair(begin, rows);
  }

 private:
  AttentionBlock task(std::int64_t begin, std::int64_t rows, float* logits, float* out) {
    AttentionBlock t;
    t.q = q_.data() + begin * q_.stride(0);
    t.q_stride = q_.stride(0);
    t.rows = rows;
    t.dims = q_.extent(1);
    t.k = k_.data();
    t.k_stride = k_.stride(0);
    t.v = v_.data();
    t.v_stride = v_.stride(0);
    t.n_k = k_.extent(0);
    t.first_row = visibility_.first_row.data();
    t.end_row = visibility_.end_row.data();
    t.tile_state = visibility_.tile_state.data();
    t.log_count = a_.log_count;
    t.sink = a_.sink;
    t.scale = a_.scale;
    t.softcap = a_.softcap;
    t.scratch = scratch_.get();
    t.logits = logits;
    t.largest = largest_;
    t.sum = sum_;
    t.out = a_.out.data() ? out : nullptr;
    t.out_stride = q_.extent(1);
    return t;
  }

  void probabilities(std::int64_t begin, std::int64_t rows, std::int64_t row_stride) {
    const std::int64_t n_k = k_.extent(0);
    p_.resize(static_cast<std::size_t>(rows * n_k));
    float inverse[attention_block];
    bool all_finite = true;
    for (std::int64_t i = 0; i < rows; ++i) {
      inverse[i] = sum_[i] == 0.0f ? 0.0f : 1.0f / sum_[i];
      all_finite &= std::isfinite(inverse[i]) && std::isfinite(largest_[i]);
    }
    const View<float, 2> p(p_.data(), {rows, n_k});
    for (std::int64_t first = 0, tile = 0; first < n_k; first += attention_tile, ++tile) {
      const std::int64_t end = std::min(n_k, first + attention_tile);
      if (visibility_.tile_state[static_cast<std::size_t>(tile)] == 0) {
        for (std::int64_t i = 0; i < rows; ++i) std::fill(&p(i, first), &p(i, first) + (end - first), 0.0f);
      } else {
        kernels_.probabilities(logits_.data(), row_stride, first, end, rows, largest_, inverse, p.data(), n_k);
      }
    }
    if (!all_finite)  // 0 · NaN where masked
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < n_k; ++j)
          if (i < visibility_.first_row[static_cast<std::size_t>(j)] ||
              i >= visibility_.end_row[static_cast<std::size_t>(j)])
            p(i, j) = 0.0f;
    a_.probabilities(begin, p);
  }

  // A masked key weighs 0, and 0 times a value that is not finite is NaN: rows that came out so are done again alone,
  // reading 0 for values they do not see. The arithmetic is the same, so the row still depends on itself only.
  void repair(std::int64_t begin, std::int64_t rows) {
    for (std::int64_t i = begin; i < begin + rows; ++i) {
      if (finite(a_.out[i])) continue;
      visibility_.fill(a_, a_.q_position[static_cast<std::size_t>(i)], 1, true);
      AttentionBlock alone = task(i, 1, nullptr, out_.data());
      alone.hide_masked_values = true;
      kernels_.attention(alone);
      for (std::int64_t d = 0; d < q_.extent(1); ++d) a_.out(i, d) = out_[static_cast<std::size_t>(d)];
    }
  }

  const AttentionParams& a_;
  const bool same_position_;
  const KernelTable& kernels_ = current_kernels();
  Array<float, 2> q_copy_, k_copy_, v_copy_;
  View<const float, 2> q_, k_, v_;
  Visibility visibility_;
  std::unique_ptr<float[]> scratch_;
  std::vector<float> logits_, out_, p_;
  float largest_[attention_block], sum_[attention_block];
};

}  // namespace

void attention(const AttentionParams& params) {
  const std::int64_t n_q = params.q.extent(0), n_k = params.k.extent(0);
  assert(static_cast<std::int64_t>(params.q_position.size()) == n_q);
  assert(static_cast<std::int64_t>(params.k_position.size()) == n_k);
  assert(params.k.extent(1) == params.q.extent(1));
  if (n_q == 0) return;
  (void)n_k;
  const bool same_position = n_q > 1 && params.q_position[1] == params.q_position[0];
  for (std::int64_t i = 1; i < n_q; ++i)
    assert(params.q_position[static_cast<std::size_t>(i)] ==
           params.q_position[static_cast<std::size_t>(i - 1)] + (same_position ? 0 : 1));
  Run run(params, same_position);
  for (std::int64_t begin = 0; begin < n_q;) {
    const std::int64_t position = params.q_position[static_cast<std::size_t>(begin)];
    const std::int64_t rows =
        std::min(n_q - begin, same_position ? attention_block : attention_block - position % attention_block);
    run.block(begin, rows);
    begin += rows;
  }
}

}  // namespace kvgrind::kernels
