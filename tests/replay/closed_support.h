// A small prompt on the example model, and what of the embedded presets the closed loop can run.
#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "replay/closed_loop/closed_loop.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::tests {

inline const traces::ModelFolder& tiny_folder() {
  static const traces::ModelFolder folder = traces::read_model_folder(KVGRIND_SOURCE_DIR "/traces/examples/tiny-3m");
  return folder;
}

inline std::shared_ptr<const sim::Model> tiny() {
  static const auto model = sim::build_model(tiny_folder().config, tiny_folder().weights);
  return model;
}

// The first prompt of the reference suite, cut: the last `context` tokens of its text and two of its questions.
inline replay::SuitePrompt small_prompt(std::size_t context, std::size_t questions = 2) {
  static const replay::Suite suite =
      replay::read_suite(KVGRIND_SOURCE_DIR "/tests/golden/closed_loop_tiny-3m.json", 4096);
  replay::SuitePrompt prompt = suite.prompts[0];
  prompt.context.resize(context);
  prompt.spans.clear();
  prompt.questions.resize(questions);
  for (auto& question : prompt.questions) question.evidence.reset();
  return prompt;
}

// Why a preset has no place in a closed loop on this model; empty: it has.
inline std::string not_in_closed_loop(const sim::BoundPolicy& policy) {
  for (const sim::Signal signal : sim::needed_signals(policy))
    if (signal == sim::Signal::future_queries) return "needs queries that a running model has not asked";
  for (const sim::Signal signal : sim::needed_signals(policy))
    if (signal == sim::Signal::spans) return "needs spans, which these prompts do not carry";
  if (!sim::needed_calibrations(policy).empty()) return "needs something fitted";
  return {};
}

inline std::vector<std::string> closed_presets() {
  std::vector<std::string> out;
  for (const std::string& name : sim::preset_names())
    if (not_in_closed_loop(*sim::bind_policy(name)).empty()) out.push_back(name);
  return out;
}

inline std::string text_of(const json::object& card, const char* key) {
  const json::value* value = card.if_contains(key);
  return value ? std::string(value->as_string()) : std::string{};
}

// Every answer token's −log p, in order of questions.
inline std::vector<double> losses(const replay::JobOutcome& outcome) {
  std::vector<double> out;
  for (const auto& question : outcome.questions)
    for (const auto& token : question.tokens) out.push_back(token.nll);
  return out;
}

inline double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double out = a.size() == b.size() ? 0.0 : 1e300;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) out = std::max(out, std::abs(a[i] - b[i]));
  return out;
}

}  // namespace kvgrind::tests
