#include "traces/kvt/query_moments.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "core/parallel.h"

namespace kvgrind::traces {

QueryMoments::QueryMoments(const ModelCard& card, std::vector<Segment> segments)
    : layers_(card.layers), query_heads_(card.query_heads), head_dim_(card.head_dim) {
  for (const LayerCard& layer : card.layer)
    rotary_.push_back(card.rope.empty() ? 0 : card.rope[static_cast<std::size_t>(layer.rope_set)].rotary_dim());
  for (const Segment& s : segments) parts_.push_back({.segment = s, .n = 0, .mean = {}, .modulus = {}, .second = {}});
}

void QueryMoments::make_room(Part& part) const {
  if (!part.second.empty()) return;
  const auto heads = static_cast<std::size_t>(layers_ * query_heads_), D = static_cast<std::size_t>(head_dim_);
  part.mean.resize(heads * D);
  part.modulus.resize(heads * (D / 2));
  part.second.resize(heads * D * D);
}

void QueryMoments::set(std::int64_t segment, std::int64_t layer, std::int64_t n, const double* mean,
                       const double* modulus, const double* second) {
  Part& part = parts_[static_cast<std::size_t>(segment)];
  make_room(part);
  part.n = n;
  const std::int64_t D = head_dim_, Hq = query_heads_;
  std::copy_n(mean, Hq * D, part.mean.data() + layer * Hq * D);
  std::copy_n(modulus, Hq * (D / 2), part.modulus.data() + layer * Hq * (D / 2));
  std::copy_n(second, Hq * D * D, part.second.data() + layer * Hq * D * D);
}

void QueryMoments::add(std::int64_t layer, std::int64_t first, View<const float, 3> q_pre) {
  const std::int64_t n = q_pre.extent(0), D = head_dim_, half = D / 2;
  const std::int64_t rotary = rotary_[static_cast<std::size_t>(layer)], paired = rotary / 2, rest = (D - rotary) / 2;
  for (Part& part : parts_) {
    const std::int64_t begin = std::max({first, part.segment.begin, ignored_queries});
    const std::int64_t end = std::min(first + n, part.segment.end);
    if (begin >= end) continue;
    make_room(part);
    if (layer == 0) part.n += end - begin;
    parallel_for(query_heads_, [&](std::int64_t h) {
      const std::int64_t head = layer * query_heads_ + h;
      double* mean = part.mean.data() + head * D;
      double* modulus = part.modulus.data() + head * half;
      Eigen::Map<Eigen::MatrixXd> second(part.second.data() + head * D * D, D, D);
      for (std::int64_t at = begin; at < end;) {
        const std::int64_t stop = std::min(end, (at / 64 + 1) * 64), rows = stop - at;
        Eigen::MatrixXf block(D, rows);
        for (std::int64_t i = 0; i < rows; ++i)
          for (std::int64_t d = 0; d < D; ++d) block(d, i) = q_pre(at - first + i, h, d);
        const Eigen::MatrixXf product = block * block.transpose();
        second += product.cast<double>();
        for (std::int64_t i = 0; i < rows; ++i) {
          for (std::int64_t d = 0; d < D; ++d) mean[d] += block(d, i);
          for (std::int64_t d = 0; d < half; ++d) {
            const double re = block(d < paired ? d : d + paired, i);
            const double im = block(d < paired ? d + paired : d + paired + rest, i);
            modulus[d] += std::sqrt(re * re + im * im);
          }
        }
        at = stop;
      }
    });
  }
}

void QueryMoments::move_ends(const std::vector<Segment>& segments, std::int64_t generated_from) {
  for (std::size_t i = 0; i < segments.size() && i + 1 < parts_.size(); ++i) parts_[i].segment.end = segments[i].end;
  parts_.back().segment.begin = generated_from;
}

void QueryMoments::read(std::int64_t segment, std::int64_t layer, float* mean, float* modulus, float* second) const {
  const Part& part = parts_[static_cast<std::size_t>(segment)];
  const auto copy = [&](const std::vector<double>& from, std::int64_t a_head, float* to) {
    const std::int64_t n = query_heads_ * a_head;
    for (std::int64_t i = 0; i < n; ++i)
      to[i] = static_cast<float>(from[static_cast<std::size_t>(layer * n + i)] / static_cast<double>(part.n));
  };
  copy(part.mean, head_dim_, mean);
  copy(part.modulus, head_dim_ / 2, modulus);
  copy(part.second, head_dim_ * head_dim_, second);
}

}  // namespace kvgrind::traces
