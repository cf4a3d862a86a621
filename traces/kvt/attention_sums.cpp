#include "traces/kvt/attention_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "traces/kvt/schema.h"

namespace kvgrind::traces {

std::int64_t map_cell_tokens(std::int64_t tokens) {
  std::int64_t cell = 8;
  while (cell * map_side < tokens) cell *= 2;
  return cell;
}

AttentionSums::AttentionSums(std::int64_t layers, std::int64_t query_heads, std::vector<Segment> segments,
                             std::int64_t first_query, std::int64_t announced_tokens, bool column_sums, bool maps,
                             bool mass)
    : layers_(layers),
      query_heads_(query_heads),
      first_query_(first_query),
      want_sums_(column_sums),
      want_maps_(maps),
      want_mass_(mass),
      cell_(map_cell_tokens(announced_tokens)) {
  for (const Segment& s : segments) parts_.push_back({.begin = s.begin, .end = s.end, .n = 0, .heads = {}});
  parts_.push_back({});  // the rest
  const std::size_t heads = static_cast<std::size_t>(layers * query_heads);
  if (maps) maps_.resize(heads);
  if (mass) mass_error_.assign(heads, -1.0f);
}

std::size_t AttentionSums::part_of(std::int64_t query) const {
  for (std::size_t i = 0; i + 1 < parts_.size(); ++i)
    if (query >= parts_[i].begin && query < parts_[i].end) return i;
  return parts_.size() - 1;
}

void AttentionSums::double_cells() {
  const std::int64_t old_side = side();
  cell_ *= 2;
  const std::int64_t new_side = side();
  for (HeadMap& map : maps_) {
    HeadMap coarse{std::vector<float>(static_cast<std::size_t>(triangle(new_side))),
                   std::vector<float>(static_cast<std::size_t>(triangle(new_side)))};
    std::size_t from = 0;
    for (std::int64_t r = 0; r < old_side; ++r) {
      for (std::int64_t c = 0; c <= r && from < map.max.size(); ++c, ++from) {
        const std::size_t to = static_cast<std::size_t>(triangle(r / 2) + c / 2);
        if (!(map.max[from] <= coarse.max[to])) coarse.max[to] = map.max[from];
        coarse.sum[to] += map.sum[from];
      }
    }
    map = std::move(coarse);
  }
}

void AttentionSums::prepare(std::int64_t first, std::int64_t n, bool decode) {
  decode_ = decode;
  const std::int64_t end = first + n;
  if (want_maps_)
    while (cell_ * map_side < end) double_cells();
  tokens_ = std::max(tokens_, end);
  if (want_maps_)
    for (HeadMap& map : maps_) {
      map.max.resize(static_cast<std::size_t>(triangle(side())));
      map.sum.resize(static_cast<std::size_t>(triangle(side())));
    }
  if (!want_sums_ || decode) return;
  prefill_end_ = std::max(prefill_end_, end);
  for (std::int64_t i = first; i < end; ++i) {
    Sums& part = parts_[part_of(i)];
    if (part.heads.empty()) part.heads.resize(static_cast<std::size_t>(layers_ * query_heads_));
    ++part.n;
  }
  for (Sums& part : parts_) {
    const bool rest = &part == &parts_.back();
    const std::int64_t keys = rest ? end : std::min(end, part.end);
    for (std::vector<float>& head : part.heads)
      if (static_cast<std::int64_t>(head.size()) < keys) head.resize(static_cast<std::size_t>(keys));
  }
}

void AttentionSums::set_column_sums(std::int64_t layer, std::int64_t segment, View<const float, 2> sums) {
  Sums& part = segment < 0 ? parts_.back() : parts_[static_cast<std::size_t>(segment)];
  if (part.heads.empty()) return;  // none of its queries was seen
  for (std::int64_t h = 0; h < query_heads_; ++h) {
    std::vector<float>& head = part.heads[at(layer, h)];
    for (std::size_t j = 0; j < head.size() && static_cast<std::int64_t>(j) < sums.extent(1); ++j)
      head[j] = sums(h, static_cast<std::int64_t>(j));
  }
}

void AttentionSums::set_map(std::int64_t layer, View<const float, 2> max, View<const float, 2> sum) {
  if (!want_maps_) return;
  for (std::int64_t h = 0; h < query_heads_; ++h) {
    HeadMap& map = maps_[at(layer, h)];
    std::copy_n(&max(h, 0), std::min<std::int64_t>(max.extent(1), static_cast<std::int64_t>(map.max.size())),
                map.max.data());
    std::copy_n(&sum(h, 0), std::min<std::int64_t>(sum.extent(1), static_cast<std::int64_t>(map.sum.size())),
                map.sum.data());
  }
}

void AttentionSums::add(const TapProbabilities& block) {
  const std::int64_t rows = block.p.extent(0), keys = block.p.extent(1);
  const std::size_t head = at(block.layer, block.head);
  const bool unit = block.p.stride(1) == 1;
  bool in_order = true;  // key j stands at position j
  for (std::int64_t j = 0; j < keys && in_order; ++j) in_order = block.key_position[static_cast<std::size_t>(j)] == j;
  std::vector<float> sum(static_cast<std::size_t>(keys)), most(static_cast<std::size_t>(keys)),
      copy(unit ? 0 : static_cast<std::size_t>(keys));
  const auto position = [&](std::int64_t j) { return in_order ? j : block.key_position[static_cast<std::size_t>(j)]; };

  for (std::int64_t r = 0; r < rows;) {
    const std::int64_t query = block.first + r;
    const std::size_t part = part_of(query);
    std::int64_t n = 1;
    while (r + n < rows && (query + n) % 8 != 0 && part_of(query + n) == part) ++n;
    const std::int64_t reach = query + n;  // keys from here on are zero in these rows
    std::int64_t used = keys;
    if (in_order) used = std::min(keys, reach);
    std::fill_n(sum.begin(), used, 0.0f);
    std::fill_n(most.begin(), used, 0.0f);
    for (std::int64_t i = r; i < r + n; ++i) {
      const float* p = &block.p(i, 0);
      if (!unit) {
        for (std::int64_t j = 0; j < used; ++j) copy[static_cast<std::size_t>(j)] = block.p(i, j);
        p = copy.data();
      }
      float* s = sum.data();
      float* m = most.data();
      for (std::int64_t j = 0; j < used; ++j) s[j] += p[j];
      for (std::int64_t j = 0; j < used; ++j) m[j] = p[j] <= m[j] ? m[j] : p[j];  // lets NaN through
      if (want_mass_) {
        double mass = 0.0;
        for (std::int64_t j = 0; j < used; ++j) mass += static_cast<double>(p[j]);
        const float error = static_cast<float>(std::fabs(mass - 1.0));
        if (!(error <= mass_error_[head])) mass_error_[head] = error;
      }
    }
    if (want_sums_ && !decode_) {
      std::vector<float>& total = parts_[part].heads[head];
      if (in_order) {
        for (std::int64_t j = 0; j < used; ++j) total[static_cast<std::size_t>(j)] += sum[static_cast<std::size_t>(j)];
      } else {
        for (std::int64_t j = 0; j < used; ++j)
          if (position(j) < static_cast<std::int64_t>(total.size()))
            total[static_cast<std::size_t>(position(j))] += sum[static_cast<std::size_t>(j)];
      }
    }
    if (want_maps_) {
      const std::int64_t row = query / cell_;
      float* row_max = maps_[head].max.data() + triangle(row);
      float* row_sum = maps_[head].sum.data() + triangle(row);
      for (std::int64_t j = 0; j < used; ++j) {
        const std::int64_t c = position(j) / cell_;
        if (c > row) continue;
        if (!(most[static_cast<std::size_t>(j)] <= row_max[c])) row_max[c] = most[static_cast<std::size_t>(j)];
        row_sum[c] += sum[static_cast<std::size_t>(j)];
      }
    }
    r += n;
  }
}

double AttentionSums::largest_mass_error() const {
  double most = std::numeric_limits<double>::quiet_NaN();
  for (const float e : mass_error_)
    if (e != -1.0f && !(e <= most)) most = e;
  return most;
}

void AttentionSums::move_ends(const std::vector<Segment>& segments) {
  for (std::size_t i = 0; i < segments.size() && i + 1 < parts_.size(); ++i) parts_[i].end = segments[i].end;
}

std::vector<AttentionSums::Block> AttentionSums::blocks() const {
  std::vector<Block> out;
  if (!want_sums_ || prefill_end_ == 0) return out;
  std::int64_t n = 0;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    n += parts_[i].n;
    if (i + 1 < parts_.size() && parts_[i].n > 0)
      out.push_back({static_cast<std::int64_t>(i), parts_[i].begin, std::min(parts_[i].end, prefill_end_), parts_[i].n,
                     std::min(parts_[i].end, prefill_end_)});
  }
  out.push_back({-1, first_query_, prefill_end_, n, prefill_end_});
  return out;
}

void AttentionSums::column_sums(const Block& block, std::int64_t layer, float* out) const {
  std::fill_n(out, block.keys * query_heads_, 0.0f);
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i].heads.empty() || (block.segment >= 0 && block.segment != static_cast<std::int64_t>(i))) continue;
    for (std::int64_t h = 0; h < query_heads_; ++h) {
      const std::vector<float>& head = parts_[i].heads[at(layer, h)];
      const std::int64_t keys = std::min(block.keys, static_cast<std::int64_t>(head.size()));
      for (std::int64_t t = 0; t < keys; ++t) out[t * query_heads_ + h] += head[static_cast<std::size_t>(t)];
    }
  }
}

void AttentionSums::map(std::int64_t layer, std::int64_t head, std::uint8_t* max, std::uint8_t* mean) const {
  const HeadMap& map = maps_[at(layer, head)];
  std::size_t i = 0;
  for (std::int64_t r = 0; r < side(); ++r) {
    for (std::int64_t c = 0; c <= r; ++c, ++i) {
      // Causal pairs of the cell: queries [max(r·cell, first), min(…, T)), keys from c·cell on and not after the query.
      const std::int64_t q0 = std::max(r * cell_, first_query_), q1 = std::min((r + 1) * cell_, tokens_);
      const std::int64_t n = std::max<std::int64_t>(0, q1 - q0);
      const std::int64_t pairs = c < r ? n * cell_ : n * (q0 + 1 + q1 - 2 * c * cell_) / 2;
      max[i] = quantise_attention(map.max[i]);
      mean[i] = quantise_attention(pairs > 0 ? map.sum[i] / static_cast<float>(pairs) : 0.0f);
    }
  }
}

}  // namespace kvgrind::traces
