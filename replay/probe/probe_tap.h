// What a pass over the context once more shows of the context's keys: runs the pass and keeps, for each layer, query
// head and key, maxima and means over its queries.
//   source: arXiv 2505.23416, 2509.05165, 2601.07891; NVIDIA/kvpress kvzip_press.py, kvcompose_press.py, kvzap/data.py
//   memory: 4 · L · Hq · (end − begin) bytes for each statistic of the pass's kind, whatever the context's length
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "core/array.h"
#include "core/model_card.h"
#include "core/probe.h"
#include "core/tap.h"
#include "sim/model/runtime.h"

namespace kvgrind::replay {

class ProbeTap final : public Tap {
 public:
  // `cache`: the one that the pass is fed into, holding the context.
  ProbeTap(const ModelCard& card, const ProbePass& pass, const sim::KvCache& cache);

  void begin(const TapPass& fed) override;
  void layer(const TapLayer& shown) override;

  ProbeColumns columns(std::int64_t layer, std::int64_t query_head) const;
  // Statistics one behind the other, as a trace stores them: [statistics · (end − begin), Hq].
  Array<float, 2> rows(std::int64_t layer) const;

 private:
  std::int64_t keys() const { return pass_.end - pass_.begin; }
  float* column(std::int64_t layer, std::int64_t head, int statistic);
  const float* column(std::int64_t layer, std::int64_t head, int statistic) const {
    return const_cast<ProbeTap*>(this)->column(layer, head, statistic);
  }

  const ModelCard& card_;
  const ProbePass& pass_;
  const sim::KvCache& cache_;
  std::vector<int> places_;                 // of each statistic among those measured, −1 = not
  std::int64_t measured_ = 0;               // statistics
  std::int64_t fed_first_ = 0;              // position of the first row of the pass under way
  std::vector<std::vector<float>> values_;  // [L · Hq][measured · keys]
};

// Feeds the pass into `cache`, `chunk` tokens at a time; the tap sees all of it.
void run_probe(const ProbePass& pass, sim::KvCache& cache, Tap& tap, std::int64_t chunk,
               const std::function<void(const sim::Feed&)>& forward);

// Error(usage) unless all passes lie within the model's positions.
void check_probes(const ModelCard& card, const std::vector<ProbePass>& passes);

}  // namespace kvgrind::replay
