// The open loop's signals: answered from a recording, or recomputed from its queries and keys where it lacks sums.
// What is computed once is kept and shared by all policies and budgets of the sequence. Thread-safe.
#pragma once
#include <cstdint>
#include <memory>

#include "replay/open_loop/recorded_run.h"
#include "sim/engine/signals.h"

namespace kvgrind::replay {

class OpenSource final : public sim::SignalSource {
 public:
  OpenSource(std::shared_ptr<const RecordedRun> run, std::int64_t sequence);
  ~OpenSource() override;
  OpenSource(OpenSource&&) noexcept;

  const ModelCard& card() const override;
  bool has(sim::Signal signal) const override;
  // Error(usage) names the signal, the rows asked and the rows recorded.
  Array<float, 2> queries(std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n) const override;
  // From the recorded sums when segments end at `until`; else recomputed, which needs every query before it.
  std::vector<float> column_sums(std::int64_t layer, std::int64_t head, std::int64_t until) const override;
  // From the recorded rows when skip is 4 and segments end at `until`; else recomputed from the queries.
  sim::QueryStatistics query_statistics(std::int64_t layer, std::int64_t head, std::int64_t skip,
                                        std::int64_t until) const override;
  // [moment, T) as far as its queries were recorded to the end of the sequence.
  std::pair<std::int64_t, std::int64_t> future(std::int64_t moment) const override;
  std::vector<float> log_sum_exp(std::int64_t layer, std::int64_t head, std::int64_t first,
                                 std::int64_t n) const override;
  std::vector<ProbeColumns> probes(std::int64_t layer, std::int64_t head, sim::Signal kind) const override;
  std::span<const float> hidden_norm(std::int64_t layer) const override;
  std::span<const float> attention_input_norm(std::int64_t layer) const override;
  const Array<float, 2>& output_projection(std::int64_t layer) const override;
  std::span<const Segment> segments() const override;
  std::span<const Span> spans() const override;

  // Recorded query positions of the sequence (the same for every layer and head), ascending.
  const std::vector<std::int64_t>& recorded_positions() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvgrind::replay
