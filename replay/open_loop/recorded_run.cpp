#include "replay/open_loop/recorded_run.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"

namespace kvgrind::replay {
namespace {

class TraceRun final : public RecordedRun {
 public:
  explicit TraceRun(std::shared_ptr<const traces::Trace> trace) : trace_(std::move(trace)), hash_(trace_->hash()) {}

  const ModelCard& card() const override { return trace_->card(); }
  std::string hash() const override { return hash_; }
  const std::vector<traces::SequenceInfo>& sequences() const override { return trace_->sequences(); }
  std::vector<std::int32_t> tokens(std::int64_t sequence) const override { return trace_->tokens(sequence); }
  Array<float, 2> keys(std::int64_t sequence, std::int64_t layer, std::int64_t kv_head) const override {
    return trace_->keys(sequence, layer, kv_head);
  }
  Array<float, 2> values(std::int64_t sequence, std::int64_t layer, std::int64_t kv_head) const override {
    return trace_->values(sequence, layer, kv_head);
  }
  traces::RecordedQueries queries(std::int64_t sequence, std::int64_t layer, std::int64_t query_head) const override {
    return trace_->queries(sequence, layer, query_head);
  }
  Array<float, 2> lse(std::int64_t sequence, std::int64_t layer) const override { return trace_->lse(sequence, layer); }
  std::optional<Array<float, 2>> column_sums(std::int64_t sequence, std::int64_t layer,
                                             std::int64_t segment) const override {
    return trace_->column_sums(sequence, layer, segment);
  }
  std::vector<traces::QueryStatisticsRow> query_statistics(std::int64_t sequence, std::int64_t layer,
                                                           std::int64_t query_head) const override {
    return trace_->query_statistics(sequence, layer, query_head);
  }
  std::vector<float> nll(std::int64_t sequence) const override { return trace_->nll(sequence); }
  std::vector<float> hidden_norm(std::int64_t sequence, std::int64_t layer) const override {
    return trace_->hidden_norm(sequence, layer);
  }
  std::vector<float> attention_input_norm(std::int64_t sequence, std::int64_t layer) const override {
    return trace_->attention_input_norm(sequence, layer);
  }
  std::vector<ProbeColumns> probes(std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                                   ProbeKind kind) const override {
    return trace_->probes(sequence, layer, query_head, kind);
  }

 protected:
  std::optional<Array<float, 2>> read_output_projection(std::int64_t layer) const override {
    return trace_->output_projection(layer);
  }

 private:
  std::shared_ptr<const traces::Trace> trace_;
  std::string hash_;
};

class ProjectedRun final : public RecordedRun {
 public:
  ProjectedRun(std::shared_ptr<const RecordedRun> run, std::function<Array<float, 2>(std::int64_t)> projection)
      : run_(std::move(run)), projection_(std::move(projection)) {}

  const ModelCard& card() const override { return run_->card(); }
  std::string hash() const override { return run_->hash(); }
  const std::vector<traces::SequenceInfo>& sequences() const override { return run_->sequences(); }
  std::vector<std::int32_t> tokens(std::int64_t sequence) const override { return run_->tokens(sequence); }
  Array<float, 2> keys(std::int64_t sequence, std::int64_t layer, std::int64_t kv_head) const override {
    return run_->keys(sequence, layer, kv_head);
  }
  Array<float, 2> values(std::int64_t sequence, std::int64_t layer, std::int64_t kv_head) const override {
    return run_->values(sequence, layer, kv_head);
  }
  traces::RecordedQueries queries(std::int64_t sequence, std::int64_t layer, std::int64_t query_head) const override {
    return run_->queries(sequence, layer, query_head);
  }
  Array<float, 2> lse(std::int64_t sequence, std::int64_t layer) const override { return run_->lse(sequence, layer); }
  std::optional<Array<float, 2>> column_sums(std::int64_t sequence, std::int64_t layer,
                                             std::int64_t segment) const override {
    return run_->column_sums(sequence, layer, segment);
  }
  std::vector<traces::QueryStatisticsRow> query_statistics(std::int64_t sequence, std::int64_t layer,
                                                           std::int64_t query_head) const override {
    return run_->query_statistics(sequence, layer, query_head);
  }
  std::vector<float> nll(std::int64_t sequence) const override { return run_->nll(sequence); }
  std::vector<float> hidden_norm(std::int64_t sequence, std::int64_t layer) const override {
    return run_->hidden_norm(sequence, layer);
  }
  std::vector<float> attention_input_norm(std::int64_t sequence, std::int64_t layer) const override {
    return run_->attention_input_norm(sequence, layer);
  }
  std::vector<ProbeColumns> probes(std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                                   ProbeKind kind) const override {
    return run_->probes(sequence, layer, query_head, kind);
  }

 protected:
  std::optional<Array<float, 2>> read_output_projection(std::int64_t layer) const override {
    if (const Array<float, 2>* stored = run_->output_projection(layer)) return *stored;
    return projection_(layer);
  }

 private:
  std::shared_ptr<const RecordedRun> run_;
  std::function<Array<float, 2>(std::int64_t)> projection_;
};

}  // namespace

const RecordedRun::Projection& RecordedRun::projection(std::int64_t layer) const {
  const std::lock_guard lock(mutex_);
  const auto [it, fresh] = projections_.try_emplace(layer);
  Projection& out = it->second;
  if (fresh && (out.weight = read_output_projection(layer))) {
    const Array<float, 2>& w = *out.weight;
    const Tensor tensor{
        .dtype = DType::f32, .shape = {w.extent(0), w.extent(1)}, .data = reinterpret_cast<const std::byte*>(w.data())};
    out.packed = kernels::pack_linear({{.weight = &tensor}});
  }
  return out;
}

const Array<float, 2>* RecordedRun::output_projection(std::int64_t layer) const {
  const Projection& p = projection(layer);
  return p.weight ? &*p.weight : nullptr;
}

const kernels::PackedLinear* RecordedRun::packed_projection(std::int64_t layer) const {
  const Projection& p = projection(layer);
  return p.weight ? &p.packed : nullptr;
}

std::shared_ptr<const RecordedRun> with_output_projection(
    std::shared_ptr<const RecordedRun> run, std::function<Array<float, 2>(std::int64_t layer)> output_projection) {
  return std::make_shared<ProjectedRun>(std::move(run), std::move(output_projection));
}

std::shared_ptr<const RecordedRun> recorded_run(std::shared_ptr<const traces::Trace> trace) {
  return std::make_shared<TraceRun>(std::move(trace));
}

const traces::SequenceInfo& find_sequence(const RecordedRun& run, std::int64_t sequence) {
  std::vector<std::int64_t> ids;
  for (const traces::SequenceInfo& info : run.sequences()) {
    if (info.id == sequence) return info;
    ids.push_back(info.id);
  }
  const bool many = ids.size() > 12;
  if (many) ids.resize(12);
  throw Error(Category::usage,
              {.doing = "choosing a sequence",
               .on = "the recording",
               .found = fmt::format("sequence {}", sequence),
               .expected = ids.empty() ? std::string("a recording with sequences (this one has none)")
                                       : fmt::format("one of {}{}", fmt::join(ids, ", "), many ? ", …" : "")});
}

std::int64_t root_sequence(const RecordedRun& run, std::int64_t sequence) {
  std::int64_t at = sequence;
  for (std::size_t hops = 0; hops <= run.sequences().size(); ++hops) {
    const std::int64_t parent = find_sequence(run, at).parent;
    if (parent < 0) return at;
    at = parent;
  }
  throw Error(Category::damaged, {.doing = "following forks",
                                  .on = fmt::format("sequence {}", sequence),
                                  .found = "a circle of parents",
                                  .expected = "a root"});
}

}  // namespace kvgrind::replay
