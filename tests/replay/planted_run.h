// A recording made up for fits: what is to be learned is known.
#pragma once
#include <memory>
#include <random>

#include "replay/fit/fit.h"

namespace kvgrind::tests {

// Queries of the tail all point along one direction for each head, and keys hold a planted amount of it: what the
// future attends to is a function of the key. `second`: how sharply the second KV head looks.
class PlantedRun : public replay::RecordedRun {
 public:
  explicit PlantedRun(std::uint64_t seed, std::int64_t prompts = 8, float second = 1.5f) {
    card_.family = "synthetic";
    card_.layers = 1;
    card_.query_heads = 4;
    card_.kv_heads = 2;
    card_.head_dim = 8;
    card_.scale = 1.0f;
    card_.layer = {{0, 0}};
    card_.rope.resize(1);  // no rotation
    for (std::int64_t p = 0; p < prompts; ++p) {
      traces::SequenceInfo info;
      info.id = p;
      info.tokens = info.own_rows = length;
      info.segments = {{Role::context, 0, moment}, {Role::question, moment, length}};
      infos_.push_back(info);
      std::mt19937_64 rng(seed * 100 + static_cast<std::uint64_t>(p));
      std::normal_distribution<float> normal;
      const auto fill = [&](std::int64_t heads) {
        std::vector<Array<float, 2>> out;
        for (std::int64_t h = 0; h < heads; ++h) {
          Array<float, 2>& x = out.emplace_back(Array<float, 2>::Extents{length, 8});
          for (std::int64_t i = 0; i < x.size(); ++i) x.data()[i] = 0.5f * normal(rng);
        }
        return out;
      };
      k_.push_back(fill(2));
      v_.push_back(fill(2));
      q_.push_back(fill(4));
      for (std::int64_t h = 0; h < 4; ++h)
        for (std::int64_t t = 0; t < length; ++t)
          for (std::int64_t d = 0; d < 8; ++d)
            q_.back()[static_cast<std::size_t>(h)](t, d) = direction(h / 2, d) * (h < 2 ? 1.5f : second);
    }
  }
  static constexpr std::int64_t length = 70, moment = 60;
  static float direction(std::int64_t group, std::int64_t d) {
    return d == group ? 0.8f : d == group + 2 ? -0.6f : 0.0f;
  }

  const ModelCard& card() const override { return card_; }
  std::string hash() const override { return "00000000planted0"; }
  const std::vector<traces::SequenceInfo>& sequences() const override { return infos_; }
  Array<float, 2> keys(std::int64_t s, std::int64_t, std::int64_t h) const override {
    return k_[static_cast<std::size_t>(s)][static_cast<std::size_t>(h)];
  }
  Array<float, 2> values(std::int64_t s, std::int64_t, std::int64_t h) const override {
    return v_[static_cast<std::size_t>(s)][static_cast<std::size_t>(h)];
  }
  traces::RecordedQueries queries(std::int64_t s, std::int64_t, std::int64_t h) const override {
    traces::RecordedQueries out;
    for (std::int64_t t = 0; t < length; ++t) out.position.push_back(t);
    out.q = q_[static_cast<std::size_t>(s)][static_cast<std::size_t>(h)];
    return out;
  }
  std::vector<std::int32_t> tokens(std::int64_t) const override { return std::vector<std::int32_t>(length); }
  Array<float, 2> lse(std::int64_t, std::int64_t) const override { return Array<float, 2>({0, 4}); }
  std::optional<Array<float, 2>> column_sums(std::int64_t, std::int64_t, std::int64_t) const override { return {}; }
  std::vector<traces::QueryStatisticsRow> query_statistics(std::int64_t, std::int64_t, std::int64_t) const override {
    return {};
  }
  std::vector<float> hidden_norm(std::int64_t, std::int64_t) const override { return {}; }
  std::vector<float> attention_input_norm(std::int64_t, std::int64_t) const override { return {}; }

 protected:
  std::optional<Array<float, 2>> read_output_projection(std::int64_t) const override { return {}; }

 private:
  ModelCard card_;
  std::vector<traces::SequenceInfo> infos_;
  std::vector<std::vector<Array<float, 2>>> k_, v_, q_;
};

inline replay::FitRequest fit_request(const std::string& method, std::uint64_t seed = 1, std::int64_t prompts = 8) {
  replay::FitRequest out;
  out.method = method;
  out.runs = {std::make_shared<const PlantedRun>(seed, prompts)};
  return out;
}

}  // namespace kvgrind::tests
