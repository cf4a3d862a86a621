#include "kernels/attention/attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <vector>

#include "core/array.h"
#include "kernels/isa/isa.h"
#include "kernels/isa/scratch.h"

namespace kvgrind::kernels {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

// Which rows of a block see which keys: per tile of keys whether no, some or all pairs are visible, and positions
// relative to the block for the tiles of the second kind. Every tile's extreme positions are read once for all blocks.
struct Visibility {
  std::vector<std::uint8_t> tile_state;
  std::vector<std::int32_t> key_at;
  std::int32_t row_low[attention_block] = {}, row_high[attention_block] = {};

  explicit Visibility(const AttentionParams& a)
      : tile_state((a.k_position.size() + attention_tile - 1) / attention_tile),
        key_at(a.k_position.size()),
        q_position_(a.q_position),
        k_position_(a.k_position),
        window_(a.window) {
    for (std::size_t begin = 0; begin < k_position_.size(); begin += attention_tile) {
      std::int64_t least = k_position_[begin], most = least;
      for (std::size_t j = begin; j < std::min(k_position_.size(), begin + attention_tile); ++j) {
        least = std::min(least, k_position_[j]);
        most = std::max(most, k_position_[j]);
      }
      least_.push_back(least);
      most_.push_back(most);
    }
  }

  void fill(std::int64_t begin, std::int64_t rows) {
    const std::span<const std::int64_t> query =
        q_position_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(rows));
    const auto [first, last] = std::minmax_element(query.begin(), query.end());
    for (std::size_t i = 0; i < query.size(); ++i) {
      row_high[i] = relative(query[i], *first);
      row_low[i] = window_ == 0 ? std::numeric_limits<std::int32_t>::min() : relative(query[i] - window_, *first);
    }
    for (std::size_t tile = 0; tile < tile_state.size(); ++tile) {
      if (least_[tile] > *last || (window_ != 0 && *first - most_[tile] >= window_)) {
        tile_state[tile] = 0;
      } else if (most_[tile] <= *first && (window_ == 0 || *last - least_[tile] < window_)) {
        tile_state[tile] = 2;
      } else {
        tile_state[tile] = 1;
        const std::size_t from = tile * attention_tile;
        for (std::size_t j = from; j < std::min(k_position_.size(), from + attention_tile); ++j)
          key_at[j] = relative(k_position_[j], *first);
      }
    }
  }

  bool sees(std::int64_t row, std::int64_t j) const {
    const auto key = static_cast<std::size_t>(j);
    const int state = tile_state[key / attention_tile];
    return state == 2 || (state == 1 && row_low[row] < key_at[key] && key_at[key] <= row_high[row]);
  }

 private:
  static std::int32_t relative(std::int64_t position, std::int64_t origin) {
    constexpr std::int64_t reach = 1 << 30;  // a distance that no model's context reaches
    return static_cast<std::int32_t>(std::clamp(position - origin, -reach, reach));
  }
  std::span<const std::int64_t> q_position_, k_position_;
  std::int64_t window_;
  std::vector<std::int64_t> least_, most_;  // positions, per tile
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
  explicit Run(const AttentionParams& params)
      : a_(params),
        q_(with_dense_rows(params.q, q_copy_)),
        k_(with_dense_rows(params.k, k_copy_)),
        v_(params.out.data() ? with_dense_rows(params.v, v_copy_) : View<const float, 2>()),
        visibility_(params) {
    scratch_.get(attention_scratch(params.q.extent(1)));
  }

  void block(std::int64_t begin, std::int64_t rows) {
    const std::int64_t n_k = k_.extent(0), dims = q_.extent(1);
    visibility_.fill(begin, rows);
    const std::int64_t row_stride = kernels_.attention_row_stride(rows);
    if (a_.probabilities) {
      weights_.get(n_k * row_stride);
      tile_largest_.get(static_cast<std::int64_t>(visibility_.tile_state.size()) * row_stride);
    }
    const bool in_place = a_.out.stride(1) == 1;
    if (a_.out.data() && in_place)
      kernels_.attention(task(begin, rows, &a_.out(begin, 0), a_.out.stride(0)));
    else
      kernels_.attention(task(begin, rows, out_.get(rows * dims), dims));
    if (a_.out.data() && !in_place)
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t d = 0; d < dims; ++d) a_.out(begin + i, d) = out_.data()[i * dims + d];
    for (std::int64_t i = 0; i < rows && a_.lse; ++i)
      a_.lse[begin + i] = sum_[i] == 0.0f ? minus_infinity : largest_[i] + std::log(sum_[i]);
    if (a_.probabilities) probabilities(begin, rows, row_stride);
    if (a_.out.data()) repair(begin, rows);
  }

 private:
  AttentionBlock task(std::int64_t begin, std::int64_t rows, float* out, std::int64_t out_stride) {
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
    t.row_low = visibility_.row_low;
    t.row_high = visibility_.row_high;
    t.key_at = visibility_.key_at.data();
    t.tile_state = visibility_.tile_state.data();
    t.log_count = a_.log_count;
    t.sink = a_.sink;
    t.scale = a_.scale;
    t.softcap = a_.softcap;
    t.scratch = scratch_.data();
    t.weights = weights_.data();
    t.tile_largest = tile_largest_.data();
    t.largest = largest_;
    t.sum = sum_;
    t.out = a_.out.data() ? out : nullptr;
    t.out_stride = out_stride;
    return t;
  }

  void probabilities(std::int64_t begin, std::int64_t rows, std::int64_t row_stride) {
    const std::int64_t n_k = k_.extent(0);
    float inverse[attention_block] = {};
    bool all_finite = true;
    for (std::int64_t i = 0; i < rows; ++i) {
      inverse[i] = sum_[i] == 0.0f ? 0.0f : 1.0f / sum_[i];
      all_finite &= std::isfinite(inverse[i]) && std::isfinite(largest_[i]);
    }
    std::fill(largest_ + rows, largest_ + row_stride, 0.0f);
    // An odd number of cache lines a row: rows a power of two apart would all fall into the same few sets.
    const std::int64_t p_stride = ((n_k + 15) / 16 | 1) * 16;
    const View<float, 2> p(p_.get(row_stride * p_stride), {rows, n_k}, {p_stride, 1});
    for (std::int64_t first = 0, tile = 0; first < n_k; first += attention_tile, ++tile) {
      const std::int64_t end = std::min(n_k, first + attention_tile);
      if (visibility_.tile_state[static_cast<std::size_t>(tile)] == 0) {
        for (std::int64_t i = 0; i < rows; ++i) std::fill(&p(i, first), &p(i, first) + (end - first), 0.0f);
      } else {
        kernels_.probabilities(weights_.data() + first * row_stride, row_stride, end - first,
                               tile_largest_.data() + tile * row_stride, largest_, inverse, p.data() + first, p_stride);
      }
    }
    if (!all_finite)  // 0 · NaN where masked
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < n_k; ++j)
          if (!visibility_.sees(i, j)) p(i, j) = 0.0f;
    a_.probabilities(begin, p);
  }

  // A masked key weighs 0, and 0 times a value that is not finite is NaN: rows that came out so are done again alone,
  // reading 0 for values they do not see. The arithmetic is the same, so the row still depends on itself only.
  void repair(std::int64_t begin, std::int64_t rows) {
    for (std::int64_t i = begin; i < begin + rows; ++i) {
      if (finite(a_.out[i])) continue;
      visibility_.fill(i, 1);
      AttentionBlock alone = task(i, 1, out_.get(q_.extent(1)), q_.extent(1));
      alone.weights = nullptr;
      alone.hide_masked_values = true;
      kernels_.attention(alone);
      for (std::int64_t d = 0; d < q_.extent(1); ++d) a_.out(i, d) = out_.data()[d];
    }
  }

  const AttentionParams& a_;
  const KernelTable& kernels_ = current_kernels();
  Array<float, 2> q_copy_, k_copy_, v_copy_;
  View<const float, 2> q_, k_, v_;
  Visibility visibility_;
  ScratchFloats scratch_, weights_, tile_largest_, out_, p_;  // the second and third only for probabilities
  float largest_[attention_block], sum_[attention_block];
};

}  // namespace

void attention(const AttentionParams& params) {
  assert(static_cast<std::int64_t>(params.q_position.size()) == params.q.extent(0));
  assert(static_cast<std::int64_t>(params.k_position.size()) == params.k.extent(0));
  assert(params.k.extent(1) == params.q.extent(1));
  if (params.q.extent(0) == 0) return;
  Run run(params);
  for_attention_blocks(params.q_position, [&](std::int64_t begin, std::int64_t rows) { run.block(begin, rows); });
}

}  // namespace kvgrind::kernels
