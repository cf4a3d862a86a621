#include "replay/look/tile.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "core/weights.h"
#include "kernels/linear/linear.h"

namespace kvgrind::replay {
namespace {

constexpr std::int64_t key_chunk = 256, query_block = 64;
constexpr float nothing = -std::numeric_limits<float>::infinity();

struct Chunk {
  std::int64_t begin = 0, end = 0;  // keys
  kernels::PackedLinear packed;
};

Chunk pack(const HeadData& head, std::int64_t begin, std::int64_t end) {
  Tensor keys;
  keys.dtype = DType::f32;
  keys.shape = {end - begin, head.k.extent(1)};
  keys.data = reinterpret_cast<const std::byte*>(head.k.data() + begin * head.k.extent(1));
  return {begin, end, kernels::pack_linear({{.weight = &keys}})};
}

struct Rows {
  std::int64_t first = 0, end = 0;  // output rows
};

class Accumulator {
 public:
  Accumulator(const ModelCard& card, const HeadData& head, const TileRequest& request, Tile& tile,
              Array<float, 2>& count)
      : card_(card),
        head_(head),
        request_(request),
        tile_(tile),
        count_(count),
        window_(card.layer[static_cast<std::size_t>(request.layer)].window) {}

  // Logits q·k of queries `index` over a chunk.
  void take(const std::vector<std::int64_t>& index, const Chunk& chunk, View<const float, 2> dots) {
    for (std::size_t i = 0; i < index.size(); ++i) {
      const std::int64_t position = head_.position[static_cast<std::size_t>(index[i])];
      const std::int64_t begin = window_ > 0 ? std::max(chunk.begin, position - window_ + 1) : chunk.begin;
      const std::int64_t end = std::min(chunk.end, position + 1);
      if (begin >= end) continue;
      const std::int64_t row = (position - request_.query_begin) / request_.cell;
      const float lse = head_.lse[static_cast<std::size_t>(position)];
      for (std::int64_t j = begin; j < end;) {
        const std::int64_t column = (j - request_.key_begin) / request_.cell;
        const std::int64_t stop = std::min(end, request_.key_begin + (column + 1) * request_.cell);
        const float* dot = &dots(static_cast<std::int64_t>(i), j - chunk.begin);
        cell(row, column, dot, stop - j, lse);
        j = stop;
      }
    }
  }

 private:
  float logit(float dot) const {
    const float x = card_.scale * dot;
    return card_.softcap > 0 ? card_.softcap * std::tanh(x / card_.softcap) : x;
  }
  // Max pooling keeps the largest log-probability: exp is taken once a cell, at the end.
  void cell(std::int64_t row, std::int64_t column, const float* dot, std::int64_t n, float lse) {
    float& value = tile_.value(row, column);
    if (request_.pool == Pool::max) {
      float best = value;
      bool odd = std::isnan(value);
      for (std::int64_t j = 0; j < n; ++j) {
        const float x = logit(dot[j]) - lse;
        odd |= std::isnan(x);
        best = std::max(best, x);
      }
      value = odd ? std::numeric_limits<float>::quiet_NaN() : best;
    } else {
      float sum = 0;
      for (std::int64_t j = 0; j < n; ++j) sum += std::exp(logit(dot[j]) - lse);
      value += sum;
      count_(row, column) += static_cast<float>(n);
    }
  }

  const ModelCard& card_;
  const HeadData& head_;
  const TileRequest& request_;
  Tile& tile_;
  Array<float, 2>& count_;
  std::int64_t window_;
};

std::int64_t cells(std::int64_t entries, std::int64_t cell) { return (entries + cell - 1) / cell; }

}  // namespace

double tile_cost(const ModelCard& card, const HeadData& head, const TileRequest& request) {
  const auto begin = std::lower_bound(head.position.begin(), head.position.end(), request.query_begin);
  const auto end = std::lower_bound(begin, head.position.end(), request.query_end);
  double pairs = 0;
  const double keys = static_cast<double>(request.key_end - request.key_begin);
  if (begin != end) {  // causal: what the mean query sees of the rectangle
    const double middle = 0.5 * static_cast<double>(*begin + *std::prev(end)) - static_cast<double>(request.key_begin);
    pairs = static_cast<double>(end - begin) * std::clamp(middle, 0.0, keys);
  }
  constexpr double exponential = 32;  // an exp and its pooling, in multiply-adds: of small heads they are most of it
  return pairs * (static_cast<double>(card.head_dim) + exponential);
}

Tile compute_tile(const ModelCard& card, const HeadData& head, const TileRequest& request, std::int64_t stride,
                  const CancelToken& cancel) {
  const std::int64_t rows = cells(request.query_end - request.query_begin, request.cell);
  const std::int64_t columns = cells(request.key_end - request.key_begin, request.cell);
  Tile tile{.value = Array<float, 2>({rows, columns}), .recorded = {}, .origin = {}};
  tile.recorded.resize(static_cast<std::size_t>(rows));
  Array<float, 2> count({rows, columns});
  if (request.pool == Pool::max) std::fill_n(tile.value.data(), tile.value.size(), nothing);

  const auto first = std::lower_bound(head.position.begin(), head.position.end(), request.query_begin);
  const auto last = std::lower_bound(first, head.position.end(), request.query_end);
  const std::int64_t found = last - first;
  std::vector<std::int64_t> chosen;
  for (auto it = first; it < last; it += std::min<std::int64_t>(stride, last - it)) {
    chosen.push_back(it - head.position.begin());
    tile.recorded[static_cast<std::size_t>((*it - request.query_begin) / request.cell)] = 1;
  }

  const std::int64_t visible_end =
      chosen.empty() ? request.key_begin
                     : std::min(request.key_end, head.position[static_cast<std::size_t>(chosen.back())] + 1);
  std::vector<Chunk> chunks(
      static_cast<std::size_t>(std::max<std::int64_t>(0, cells(visible_end - request.key_begin, key_chunk))));
  parallel_for(static_cast<std::int64_t>(chunks.size()), [&](std::int64_t c) {
    const std::int64_t begin = request.key_begin + c * key_chunk;
    chunks[static_cast<std::size_t>(c)] = pack(head, begin, std::min(begin + key_chunk, visible_end));
  });

  // Tasks own whole output rows, so no two write one cell.
  std::vector<std::pair<std::size_t, std::size_t>> tasks;  // ranges of `chosen`
  for (std::size_t begin = 0; begin < chosen.size();) {
    const auto row_of = [&](std::size_t i) {
      return (head.position[static_cast<std::size_t>(chosen[i])] - request.query_begin) / request.cell;
    };
    std::size_t end = begin + 1;
    while (end < chosen.size() &&
           (end - begin < static_cast<std::size_t>(query_block) || row_of(end) == row_of(end - 1)))
      ++end;
    tasks.emplace_back(begin, end);
    begin = end;
  }
  Accumulator into(card, head, request, tile, count);
  const std::int64_t dim = card.head_dim;
  parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t t) {
    const auto [task_begin, task_end] = tasks[static_cast<std::size_t>(t)];
    Array<float, 2> dots({query_block, key_chunk}), queries({query_block, dim});
    for (std::size_t begin = task_begin; begin < task_end; begin += static_cast<std::size_t>(query_block)) {
      cancel.throw_if_cancelled();
      const std::size_t end = std::min(task_end, begin + static_cast<std::size_t>(query_block));
      const std::vector<std::int64_t> index(chosen.begin() + static_cast<std::ptrdiff_t>(begin),
                                            chosen.begin() + static_cast<std::ptrdiff_t>(end));
      const auto n = static_cast<std::int64_t>(index.size());
      for (std::int64_t i = 0; i < n; ++i)
        std::copy_n(head.q.data() + index[static_cast<std::size_t>(i)] * dim, dim, &queries(i, 0));
      const std::int64_t furthest = head.position[static_cast<std::size_t>(index.back())];
      for (const Chunk& chunk : chunks) {
        if (chunk.begin > furthest) break;
        const View<float, 2> out(dots.data(), {n, chunk.end - chunk.begin});
        kernels::linear(chunk.packed, queries.view().slice(0, n), out);
        into.take(index, chunk, out);
      }
    }
  });

  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) {
      float& value = tile.value(r, c);
      if (!tile.recorded[static_cast<std::size_t>(r)])
        value = std::numeric_limits<float>::quiet_NaN();
      else if (request.pool == Pool::max)
        value = std::exp(value);
      else if (request.pool == Pool::mean && count(r, c) > 0)
        value /= count(r, c);
      else if (request.pool == Pool::sum && stride > 1)
        value *= static_cast<float>(stride);
    }
  const bool whole = found == request.query_end - request.query_begin;
  tile.exact = whole && stride == 1;
  tile.source = stride > 1 ? TileSource::sampled : TileSource::exact;
  tile.origin = stride > 1 ? fmt::format("sampled 1/{} of the queries", stride)
                : whole    ? "exact"
                           : "recorded queries only";
  return tile;
}

bool map_serves(const CoarseMap& map, const TileRequest& request) {
  return map.cell > 0 && request.cell % map.cell == 0 && request.query_begin % map.cell == 0 &&
         request.key_begin % map.cell == 0;
}

Tile tile_from_map(const CoarseMap& map, const TileRequest& request, std::int64_t tokens) {
  const std::int64_t rows = cells(request.query_end - request.query_begin, request.cell);
  const std::int64_t columns = cells(request.key_end - request.key_begin, request.cell);
  Tile tile{.value = Array<float, 2>({rows, columns}),
            .recorded = std::vector<std::uint8_t>(static_cast<std::size_t>(rows), 1),
            .exact = false,
            .source = TileSource::map,
            .origin = map.origin};
  const std::int64_t per = request.cell / map.cell;
  const auto pairs = [&](std::int64_t r, std::int64_t c) {  // causal pairs of a cell of the map
    double n = 0;
    const std::int64_t key_end = std::min(tokens, (c + 1) * map.cell);
    for (std::int64_t i = r * map.cell; i < std::min(tokens, (r + 1) * map.cell); ++i)
      n += static_cast<double>(std::max<std::int64_t>(0, std::min(key_end, i + 1) - c * map.cell));
    return n;
  };
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::int64_t r0 = request.query_begin / map.cell + r * per, c0 = request.key_begin / map.cell + c * per;
      float best = 0;
      double sum = 0, n = 0;
      for (std::int64_t i = r0; i < std::min(r0 + per, map.max.extent(0)); ++i)
        for (std::int64_t j = c0; j < std::min(c0 + per, std::min(i + 1, map.max.extent(1))); ++j) {
          const float value = map.max(i, j);
          best =
              std::isnan(value) || std::isnan(best) ? std::numeric_limits<float>::quiet_NaN() : std::max(best, value);
          if (request.pool == Pool::max) continue;
          const double here = pairs(i, j);
          sum += here * static_cast<double>(map.mean(i, j));
          n += here;
        }
      tile.value(r, c) = request.pool == Pool::max   ? best
                         : request.pool == Pool::sum ? static_cast<float>(sum)
                         : n > 0                     ? static_cast<float>(sum / n)
                                                     : 0.0f;
    }
  return tile;
}

}  // namespace kvgrind::replay
