// Statistics of pre-RoPE queries per segment, layer and query head: mean, mean modulus of each complex pair
// and second moment, in double, summed in absolute 64-query blocks.
// Pairs: rotated dims (m, m + r/2) for m < r/2, then (r + i, r + (D − r)/2 + i) of the dims that pass through.
// Memory: 8 · L · Hq · (D² + D + D/2) bytes a segment that was fed.
#pragma once
#include <cstdint>
#include <vector>

#include "core/model_card.h"
#include "core/sequence.h"
#include "core/view.h"

namespace kvgrind::traces {

inline constexpr std::int64_t ignored_queries = 4;  // first positions left out

class QueryMoments {
 public:
  QueryMoments(const ModelCard& card, std::vector<Segment> segments);

  // q_pre [n, Hq, D] of the queries at positions first, first+1, …; positions below ignored_queries are left out.
  void add(std::int64_t layer, std::int64_t first, View<const float, 3> q_pre);

  // Sums computed elsewhere instead, after all passes: over n queries of one part (index as segment()), of one layer:
  // Σ x [Hq, D], Σ |pair| [Hq, D/2], Σ x xᵀ [Hq, D, D].
  void set(std::int64_t segment, std::int64_t layer, std::int64_t n, const double* mean, const double* modulus,
           const double* second);

  // Segments that turned out longer or shorter than announced (their number stays), and where generation begins.
  void move_ends(const std::vector<Segment>& segments, std::int64_t generated_from);

  std::int64_t segments() const { return static_cast<std::int64_t>(parts_.size()); }
  std::int64_t count(std::int64_t segment) const { return parts_[static_cast<std::size_t>(segment)].n; }
  const Segment& segment(std::int64_t index) const { return parts_[static_cast<std::size_t>(index)].segment; }
  // Of one segment and layer: mean [Hq, D], modulus [Hq, D/2], second moment [Hq, D, D].
  void read(std::int64_t segment, std::int64_t layer, float* mean, float* modulus, float* second) const;

 private:
  struct Part {
    Segment segment;
    std::int64_t n = 0;  // queries counted (by layer 0)
    std::vector<double> mean, modulus, second;
  };
  void make_room(Part& part) const;
  std::int64_t layers_, query_heads_, head_dim_;
  std::vector<std::int64_t> rotary_;  // [L]
  std::vector<Part> parts_;
};

}  // namespace kvgrind::traces
