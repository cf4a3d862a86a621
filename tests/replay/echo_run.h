// A recording whose tail is another run's: the context as recorded, and of the tokens after it what a tap saw. So an
// open loop can be shown the very signals that a closed loop with a policy in its cache had.
#pragma once
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include "core/tap.h"
#include "replay/open_loop/recorded_run.h"

namespace kvgrind::tests {

class TailTap final : public Tap {
 public:
  struct Rows {
    std::vector<float> q, k, v, hidden_norm, attn_in_norm;  // one row a token
  };
  std::vector<Rows> layers;
  std::int64_t first = -1, end_ = 0;

  explicit TailTap(std::int64_t n_layers) : layers(static_cast<std::size_t>(n_layers)) {}
  void begin(const TapPass& pass) override {
    if (first < 0) first = pass.first;
    end_ = pass.first + static_cast<std::int64_t>(pass.ids.size());
  }
  void layer(const TapLayer& shown) override {
    Rows& rows = layers[static_cast<std::size_t>(shown.layer)];
    const auto take = [](View<const float, 3> x, std::vector<float>& out) {
      for (std::int64_t t = 0; t < x.extent(0); ++t)
        for (std::int64_t h = 0; h < x.extent(1); ++h)
          for (std::int64_t d = 0; d < x.extent(2); ++d) out.push_back(x(t, h, d));
    };
    take(shown.q, rows.q);
    take(shown.k, rows.k);
    take(shown.v, rows.v);
    const auto norm = [](View<const float, 2> x, std::vector<float>& out) {
      for (std::int64_t t = 0; t < x.extent(0); ++t) {
        double sum = 0;
        for (std::int64_t d = 0; d < x.extent(1); ++d) sum += static_cast<double>(x(t, d)) * x(t, d);
        out.push_back(static_cast<float>(std::sqrt(sum)));
      }
    };
    norm(shown.input, rows.hidden_norm);
    norm(shown.attn_in, rows.attn_in_norm);
  }
};

class EchoRun final : public replay::RecordedRun {
 public:
  EchoRun(std::shared_ptr<const replay::RecordedRun> base, const TailTap& tail) : base_(std::move(base)), tail_(tail) {}

  const ModelCard& card() const override { return base_->card(); }
  std::string hash() const override { return base_->hash(); }
  const std::vector<traces::SequenceInfo>& sequences() const override { return base_->sequences(); }
  std::vector<std::int32_t> tokens(std::int64_t s) const override { return base_->tokens(s); }
  Array<float, 2> keys(std::int64_t s, std::int64_t layer, std::int64_t head) const override {
    return over(base_->keys(s, layer, head), tail_.layers[static_cast<std::size_t>(layer)].k, head, card().kv_heads);
  }
  Array<float, 2> values(std::int64_t s, std::int64_t layer, std::int64_t head) const override {
    return over(base_->values(s, layer, head), tail_.layers[static_cast<std::size_t>(layer)].v, head, card().kv_heads);
  }
  traces::RecordedQueries queries(std::int64_t s, std::int64_t layer, std::int64_t head) const override {
    traces::RecordedQueries out = base_->queries(s, layer, head);  // every query is recorded
    out.q = over(std::move(out.q), tail_.layers[static_cast<std::size_t>(layer)].q, head, card().query_heads);
    return out;
  }
  Array<float, 2> lse(std::int64_t s, std::int64_t layer) const override { return base_->lse(s, layer); }
  std::optional<Array<float, 2>> column_sums(std::int64_t s, std::int64_t layer, std::int64_t segment) const override {
    return base_->column_sums(s, layer, segment);
  }
  std::vector<traces::QueryStatisticsRow> query_statistics(std::int64_t s, std::int64_t layer,
                                                           std::int64_t head) const override {
    auto rows = base_->query_statistics(s, layer, head);
    std::erase_if(rows, [this](const auto& row) { return row.end > tail_.first; });
    return rows;
  }
  std::vector<float> hidden_norm(std::int64_t s, std::int64_t layer) const override {
    return over(base_->hidden_norm(s, layer), tail_.layers[static_cast<std::size_t>(layer)].hidden_norm);
  }
  std::vector<float> attention_input_norm(std::int64_t s, std::int64_t layer) const override {
    return over(base_->attention_input_norm(s, layer), tail_.layers[static_cast<std::size_t>(layer)].attn_in_norm);
  }
  std::vector<ProbeColumns> probes(std::int64_t s, std::int64_t layer, std::int64_t head,
                                   ProbeKind kind) const override {
    return base_->probes(s, layer, head, kind);
  }

 protected:
  std::optional<Array<float, 2>> read_output_projection(std::int64_t layer) const override {
    const Array<float, 2>* w = base_->output_projection(layer);
    return w ? std::optional(*w) : std::nullopt;
  }

 private:
  Array<float, 2> over(Array<float, 2> rows, const std::vector<float>& from, std::int64_t head,
                       std::int64_t heads) const {
    const std::int64_t dim = rows.extent(1);
    for (std::int64_t t = tail_.first; t >= 0 && t < std::min(tail_.end_, rows.extent(0)); ++t)
      std::copy_n(from.data() + ((t - tail_.first) * heads + head) * dim, dim, &rows(t, 0));
    return rows;
  }
  std::vector<float> over(std::vector<float> rows, const std::vector<float>& from) const {
    for (std::size_t i = 0; i < from.size(); ++i) rows[static_cast<std::size_t>(tail_.first) + i] = from[i];
    return rows;
  }
  std::shared_ptr<const replay::RecordedRun> base_;
  const TailTap& tail_;
};

}  // namespace kvgrind::tests
