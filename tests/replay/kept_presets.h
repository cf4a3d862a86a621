// What every embedded preset keeps on two recordings of the same prompt, at several budgets.
#pragma once
#include <cstdio>
#include <string>

#include "core/parallel.h"
#include "replay/record/record.h"
#include "tests/replay/closed_support.h"
#include "tests/replay/kept_agreement.h"

namespace kvgrind::tests {

// A prompt of the reference suite with a question, its answer and a few generated tokens.
inline replay::RecordJob agreement_job(const traces::ModelFolder& model, const std::filesystem::path& out,
                                       std::size_t context) {
  const replay::SuitePrompt prompt = small_prompt(context, 1);
  TokenSequence one;
  const auto add = [&one](Role role, const std::vector<std::int32_t>& ids) {
    const auto begin = static_cast<std::int64_t>(one.ids.size());
    one.ids.insert(one.ids.end(), ids.begin(), ids.end());
    one.segments.push_back({role, begin, static_cast<std::int64_t>(one.ids.size())});
  };
  add(Role::context, prompt.context);
  add(Role::question, prompt.questions[0].question);
  add(Role::answer, prompt.questions[0].answer);
  one.spans = {{"needle", 30, 44, "a"}, {"image", 60, 80, "b"}};
  one.decode = 6;
  replay::RecordJob job;
  job.model = &model;
  job.sequences = {one};
  job.out = out;
  job.device = "cpu";
  job.options.force = true;
  return job;
}

// The recording, with W_O from the model where it is too large a share of a small file.
inline std::shared_ptr<const replay::RecordedRun> run_of(const std::filesystem::path& file) {
  return with_output_projection(replay::recorded_run(traces::Trace::open(file, {.probe = false})),
                                [](std::int64_t layer) { return sim::output_projection(*tiny(), layer); });
}

// Why a preset cannot run on such a recording; empty: it can.
inline std::string not_on(const replay::SequenceData& data, const sim::BoundPolicy& policy) {
  if (!sim::needed_calibrations(policy).empty()) return "needs something fitted";
  for (const sim::Signal signal : sim::needed_signals(policy))
    if (!data.source().has(signal)) return "needs " + std::string(sim::signal_name(signal));
  return {};
}

struct PresetAgreement {
  std::string preset, left_out;  // left_out: why it did not run
  Agreement sum;
};

inline std::vector<PresetAgreement> presets_agree(const replay::SequenceData& a, const replay::SequenceData& b,
                                                  const std::vector<double>& budgets) {
  std::vector<PresetAgreement> out;
  for (const std::string& name : sim::preset_names()) out.push_back({name, {}, {}});
  parallel_for(static_cast<std::int64_t>(out.size()), [&](std::int64_t i) {
    PresetAgreement& one = out[static_cast<std::size_t>(i)];
    const sim::PolicyPtr policy = sim::bind_policy(one.preset);
    one.left_out = not_on(a, *policy);
    if (!one.left_out.empty()) return;
    for (const double budget : budgets) {
      const sim::Amount amount{sim::Amount::Kind::fraction, budget};
      one.sum.add(agreement(decide(a, policy, amount), decide(b, policy, amount), policy->budget_row().scope));
    }
  });
  return out;
}

// A sum, and (where wanted) one line a preset that differs at all.
inline Agreement print_agreement(const std::vector<PresetAgreement>& all, const char* what, bool lines = true) {
  Agreement sum;
  int ran = 0, equal = 0;
  for (const PresetAgreement& one : all) {
    if (!one.left_out.empty()) {
      if (lines) std::printf("  %-22s left out: %s\n", one.preset.c_str(), one.left_out.c_str());
      continue;
    }
    ++ran;
    const Agreement& s = one.sum;
    sum.add(s);
    if (s.near_ties + s.rank_ties + s.others + s.followers == 0) {
      ++equal;
      continue;
    }
    if (!lines) continue;
    std::printf(
        "  %-22s slots %lld, near ties %lld, of ranks %lld, others %lld, later decisions over other slots %lld of "
        "%lld, "
        "metrics %.2g %s\n",
        one.preset.c_str(), static_cast<long long>(s.slots), static_cast<long long>(s.near_ties),
        static_cast<long long>(s.rank_ties), static_cast<long long>(s.others), static_cast<long long>(s.followers),
        static_cast<long long>(s.decisions), s.largest_metric, s.worst.c_str());
  }
  std::printf(
      "%s: %d presets, %d with equal kept sets; %lld decisions over %lld slots, %lld near ties, %lld of ranks, %lld "
      "others, "
      "%lld decisions over other slots; metrics within %.2g\n",
      what, ran, equal, static_cast<long long>(sum.decisions), static_cast<long long>(sum.slots),
      static_cast<long long>(sum.near_ties), static_cast<long long>(sum.rank_ties), static_cast<long long>(sum.others),
      static_cast<long long>(sum.followers), sum.largest_metric);
  return sum;
}

}  // namespace kvgrind::tests
