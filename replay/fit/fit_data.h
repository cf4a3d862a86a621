// What all fits read of a recording.
#pragma once
#include <Eigen/Core>
#include <memory>
#include <vector>

#include "replay/fit/fit.h"
#include "replay/open_loop/open_source.h"
#include "sim/engine/bound_policy.h"

namespace kvgrind::replay {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct FitSequence {
  std::shared_ptr<const RecordedRun> run;
  std::shared_ptr<const OpenSource> source;
  std::int64_t id = 0, tokens = 0, moment = 0;  // the context ends at `moment`

  Rows keys(std::int64_t layer, std::int64_t kv_head) const;                                      // [T, D] post-RoPE
  Rows values(std::int64_t layer, std::int64_t kv_head) const;                                    // [T, D]
  Rows queries(std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n) const;  // post-RoPE
  Rows unrotated(std::int64_t layer, std::int64_t first, Rows x) const;  // rows at positions first, first + 1, …
  // Pre-RoPE queries and keys and the values of tokens [0, moment), as learned heads read them: [moment, features].
  Rows features(std::int64_t layer) const;
  std::pair<std::int64_t, std::int64_t> future() const { return source->future(moment); }
};

struct FitSplit {
  const FitRequest& request;
  const ModelCard& card;
  std::vector<FitSequence> fitted, held_out;
};

// The context of a sequence in a cache of its own, for scores of the policy engine.
class FitCache {
 public:
  explicit FitCache(const FitSequence& sequence);
  // Scores of the context's tokens, [moment]. Error(usage) where heads or layers join.
  std::vector<float> scores(const sim::BoundCall& score, std::int64_t layer, std::int64_t kv_head) const;

 private:
  const FitSequence& sequence_;
  sim::CacheState cache_;
};

// Mean over the queries after the context, and over the query heads of the KV head, of the attention that the
// context's tokens receive: [moment].
std::vector<double> future_mass(const FitSequence& sequence, std::int64_t layer, std::int64_t kv_head);

// Tokens that each head keeps at 1 … 99 % dropped: [99][heads]. curves: of each head, the mass that its best b tokens
// hold, [tokens + 1]; along the curves' upper hulls, steepest first, after one token for each head.
std::vector<std::vector<std::int64_t>> curve_counts(const std::vector<std::vector<double>>& curves,
                                                    std::int64_t tokens);

// Attention of post-RoPE queries at positions [first, first + q.rows()) over keys [0, T), causal: [rows, T].
Rows causal_attention(const ModelCard& card, std::int64_t layer, const Rows& q, std::int64_t first, const Rows& k);

// One function a method: fills tensors, fitted_error, held_out_error.
void fit_query_directions(const FitSplit& split, Calibration& out);
void fit_query_gaussians(const FitSplit& split, Calibration& out);
void fit_query_centres(const FitSplit& split, Calibration& out);
void fit_streaming_error(const FitSplit& split, Calibration& out);
void fit_head_curves(const FitSplit& split, Calibration& out);
void fit_layer_curves(const FitSplit& split, Calibration& out);
void fit_echo_heads(const FitSplit& split, Calibration& out);
void fit_retrieval_heads(const FitSplit& split, Calibration& out);
void fit_matrix_entropy(const FitSplit& split, Calibration& out);
void fit_lookahead_queries(const FitSplit& split, Calibration& out);
void fit_mixing_filters(const FitSplit& split, Calibration& out);
void fit_learned_score(const FitSplit& split, Calibration& out);
void fit_learned_gate(const FitSplit& split, Calibration& out);
void fit_predicted_repeat(const FitSplit& split, Calibration& out);
void fit_repeat_gate(const FitSplit& split, Calibration& out);

}  // namespace kvgrind::replay
