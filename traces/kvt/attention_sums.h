// Running sums over attention probabilities while a sequence is recorded: column sums per segment and in total, a
// max- and mean-pooled map per query head, and the largest |Σp − 1|. Bitwise independent of how prefill is cut, as
// long as passes begin at multiples of 64 (rows are summed in absolute groups of 8, cut at segment borders).
// Memory: column sums 4 · L · Hq · T bytes a segment; maps 2 · 4 · L · Hq · side (side + 1) / 2, side ≤ 256.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/sequence.h"
#include "core/tap.h"

namespace kvgrind::traces {

// Cells of the lower triangle of a side × side map, row-major: cell (r, c), c ≤ r, at r (r + 1) / 2 + c.
inline std::int64_t triangle(std::int64_t side) { return side * (side + 1) / 2; }

// Tokens a cell for T tokens: 8 · 2^k, the smallest with at most 256 cells a side.
std::int64_t map_cell_tokens(std::int64_t tokens);

class AttentionSums {
 public:
  // `segments`: those whose column sums are wanted (queries of no segment count in the total only).
  AttentionSums(std::int64_t layers, std::int64_t query_heads, std::vector<Segment> segments, std::int64_t first_query,
                std::int64_t announced_tokens, bool column_sums, bool maps, bool mass);

  // Before probabilities of queries [first, first + n); not concurrent. Decode queries count in maps only.
  void prepare(std::int64_t first, std::int64_t n, bool decode);
  // Concurrent for different (layer, head).
  void add(const TapProbabilities& block);

  // Column sums computed elsewhere instead, after all passes: [Hq, keys] of one layer over all queries of the index-th
  // segment, or of none (−1).
  void set_column_sums(std::int64_t layer, std::int64_t segment, View<const float, 2> sums);

  // Maps pooled elsewhere instead, after all passes, in cells of cell() tokens: max and sum [Hq, ≥ triangle(side())].
  void set_map(std::int64_t layer, View<const float, 2> max, View<const float, 2> sum);

  // Segments that turned out longer or shorter than announced; their number stays.
  void move_ends(const std::vector<Segment>& segments);

  double largest_mass_error() const;  // NaN: nothing seen
  std::int64_t tokens() const { return tokens_; }
  std::int64_t prefill_end() const { return prefill_end_; }

  struct Block {
    std::int64_t segment = -1;               // index into `segments`, −1 = the total
    std::int64_t begin = 0, end = 0, n = 0;  // queries counted
    std::int64_t keys = 0;
  };
  std::vector<Block> blocks() const;  // recorded segments in order, then the total; empty: no queries
  // out [keys, Hq] of one block and layer.
  void column_sums(const Block& block, std::int64_t layer, float* out) const;

  std::int64_t cell() const { return cell_; }
  std::int64_t side() const { return (tokens_ + cell_ - 1) / cell_; }
  // The map of one head as codes, triangle(side()) each.
  void map(std::int64_t layer, std::int64_t head, std::uint8_t* max, std::uint8_t* mean) const;

 private:
  struct HeadMap {
    std::vector<float> max, sum;
  };
  struct Sums {  // of one segment: [L · Hq][keys]
    std::int64_t begin = 0, end = 0, n = 0;
    std::vector<std::vector<float>> heads;
  };
  std::size_t at(std::int64_t layer, std::int64_t head) const {
    return static_cast<std::size_t>(layer * query_heads_ + head);
  }
  std::size_t part_of(std::int64_t query) const;  // index into parts_; the last one is the rest
  void double_cells();

  std::int64_t layers_, query_heads_, first_query_;
  bool want_sums_, want_maps_, want_mass_, decode_ = false;
  std::vector<Sums> parts_;
  std::vector<HeadMap> maps_;
  std::vector<float> mass_error_;  // per (layer, head); −1 = nothing seen
  std::int64_t tokens_ = 0, prefill_end_ = 0, cell_ = 8;
};

}  // namespace kvgrind::traces
