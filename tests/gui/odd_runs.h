// Recordings that are odd in one way: empty, NaN in the keys; and inputs over any recording.
#pragma once
#include <limits>
#include <memory>

#include "gui/models/view_input.h"
#include "tests/replay/synthetic_run.h"

namespace kvgrind::tests {

// Another run's answers, with what a derived class changes.
class RunOver : public replay::RecordedRun {
 public:
  explicit RunOver(std::shared_ptr<const replay::RecordedRun> run) : run_(std::move(run)) {}
  const ModelCard& card() const override { return run_->card(); }
  std::string hash() const override { return run_->hash(); }
  const std::vector<traces::SequenceInfo>& sequences() const override { return run_->sequences(); }
  std::vector<std::int32_t> tokens(std::int64_t s) const override { return run_->tokens(s); }
  Array<float, 2> keys(std::int64_t s, std::int64_t l, std::int64_t h) const override { return run_->keys(s, l, h); }
  Array<float, 2> values(std::int64_t s, std::int64_t l, std::int64_t h) const override {
    return run_->values(s, l, h);
  }
  traces::RecordedQueries queries(std::int64_t s, std::int64_t l, std::int64_t h) const override {
    return run_->queries(s, l, h);
  }
  Array<float, 2> lse(std::int64_t s, std::int64_t l) const override { return run_->lse(s, l); }
  std::optional<Array<float, 2>> column_sums(std::int64_t s, std::int64_t l, std::int64_t g) const override {
    return run_->column_sums(s, l, g);
  }
  std::vector<traces::QueryStatisticsRow> query_statistics(std::int64_t s, std::int64_t l,
                                                           std::int64_t h) const override {
    return run_->query_statistics(s, l, h);
  }
  std::vector<float> hidden_norm(std::int64_t s, std::int64_t l) const override { return run_->hidden_norm(s, l); }
  std::vector<float> attention_input_norm(std::int64_t s, std::int64_t l) const override {
    return run_->attention_input_norm(s, l);
  }

 protected:
  std::optional<Array<float, 2>> read_output_projection(std::int64_t) const override { return std::nullopt; }
  std::shared_ptr<const replay::RecordedRun> run_;
};

class NanRun final : public RunOver {
 public:
  using RunOver::RunOver;
  Array<float, 2> keys(std::int64_t s, std::int64_t l, std::int64_t h) const override {
    Array<float, 2> out = run_->keys(s, l, h);
    for (std::int64_t t = 3; t < out.extent(0); t += 17) out(t, 0) = std::numeric_limits<float>::quiet_NaN();
    return out;
  }
};

// One sequence of one token.
class OneTokenRun final : public RunOver {
 public:
  explicit OneTokenRun(std::shared_ptr<const replay::RecordedRun> run) : RunOver(std::move(run)), infos_(1) {
    infos_[0].tokens = infos_[0].own_rows = 1;
  }
  const std::vector<traces::SequenceInfo>& sequences() const override { return infos_; }
  std::vector<std::int32_t> tokens(std::int64_t) const override { return {7}; }
  Array<float, 2> keys(std::int64_t, std::int64_t l, std::int64_t h) const override {
    return first(run_->keys(0, l, h));
  }
  Array<float, 2> values(std::int64_t, std::int64_t l, std::int64_t h) const override {
    return first(run_->values(0, l, h));
  }
  traces::RecordedQueries queries(std::int64_t, std::int64_t l, std::int64_t h) const override {
    return {{0}, first(run_->queries(0, l, h).q)};
  }
  Array<float, 2> lse(std::int64_t, std::int64_t l) const override { return first(run_->lse(0, l)); }
  std::optional<Array<float, 2>> column_sums(std::int64_t, std::int64_t, std::int64_t) const override {
    Array<float, 2> out({card().query_heads, 1});
    std::fill_n(out.data(), out.size(), 1.0f);
    return out;
  }
  std::vector<float> hidden_norm(std::int64_t, std::int64_t) const override { return {1.0f}; }
  std::vector<float> attention_input_norm(std::int64_t, std::int64_t) const override { return {1.0f}; }

 private:
  static Array<float, 2> first(const Array<float, 2>& all) {
    Array<float, 2> out({1, all.extent(1)});
    std::copy_n(all.data(), all.extent(1), out.data());
    return out;
  }
  std::vector<traces::SequenceInfo> infos_;
};

class EmptyRun final : public RunOver {
 public:
  explicit EmptyRun(std::shared_ptr<const replay::RecordedRun> run) : RunOver(std::move(run)), infos_(1) {}
  const std::vector<traces::SequenceInfo>& sequences() const override { return infos_; }
  std::vector<std::int32_t> tokens(std::int64_t) const override { return {}; }
  Array<float, 2> keys(std::int64_t, std::int64_t, std::int64_t) const override { return none(); }
  Array<float, 2> values(std::int64_t, std::int64_t, std::int64_t) const override { return none(); }
  traces::RecordedQueries queries(std::int64_t, std::int64_t, std::int64_t) const override { return {{}, none()}; }
  Array<float, 2> lse(std::int64_t, std::int64_t) const override { return Array<float, 2>({0, card().query_heads}); }
  std::optional<Array<float, 2>> column_sums(std::int64_t, std::int64_t, std::int64_t) const override {
    return Array<float, 2>({card().query_heads, 0});
  }
  std::vector<float> hidden_norm(std::int64_t, std::int64_t) const override { return {}; }

 private:
  Array<float, 2> none() const { return Array<float, 2>({0, card().head_dim}); }
  std::vector<traces::SequenceInfo> infos_;
};

// The last sequence of a run, with these policies replayed at 25 %.
inline gui::ViewInput input_over(std::shared_ptr<const replay::RecordedRun> run,
                                 const std::vector<std::string>& policies = {}) {
  gui::ViewInput input;
  input.session = std::make_shared<const replay::Session>(run, nullptr);
  input.tiles = std::make_shared<gui::TilePyramid>(input.session);
  input.at.sequence = run->sequences().back().id;
  std::vector<std::string> text;
  for (std::int64_t t = 0; t < run->sequences().back().tokens; ++t)
    text.push_back(t % 9 == 0 ? "\n" : t % 7 == 0 ? std::string("\xff\x01") : " w" + std::to_string(t));
  input.text = std::make_shared<const std::vector<std::string>>(text);
  auto rows = std::make_shared<std::vector<traces::ResultRow>>();
  for (const std::string& policy : policies) {
    gui::ShownJob job{.name = gui::job_name(policy, "0.25"),
                      .asked = {.policy = policy, .budget = "0.25", .sequence = input.at.sequence},
                      .view = nullptr,
                      .colour = input.jobs.size()};
    job.view = input.session->replay(job.asked, {}, true);
    rows->push_back(job.view->row);
    input.jobs.push_back(std::move(job));
  }
  input.rows = rows;
  return input;
}

}  // namespace kvgrind::tests
