// A small prompt on the example model, and what of the embedded presets the closed loop can run.
#pragma once
#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "replay/closed_loop/closed_loop.h"
#include "tests/support/synthetic_source.h"
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

// The first prompt of the reference suite, cut: the first `context` tokens of its text and two of its questions. Spans
// are made up: sentences all the way, and two images.
inline replay::SuitePrompt small_prompt(std::size_t context, std::size_t questions = 2) {
  static const replay::Suite suite =
      replay::read_suite(KVGRIND_SOURCE_DIR "/tests/golden/closed_loop_tiny-3m.json", 4096);
  replay::SuitePrompt prompt = suite.prompts[0];
  prompt.context.resize(context);
  prompt.spans = {{"image", 20, 36, "a"}, {"image", 48, 70, "b"}};
  const auto end = static_cast<std::int64_t>(context);
  for (std::int64_t at = 0; at < end; at += 13) prompt.spans.push_back({"sentence", at, std::min(at + 13, end), ""});
  prompt.questions.resize(questions);
  for (auto& question : prompt.questions) question.evidence.reset();
  return prompt;
}

// A preset or line, with random tensors where it needs something fitted.
inline sim::PolicyPtr closed_policy(const std::string& text) {
  return sim::with_calibrations(sim::bind_policy(text), [](const std::string& method, const std::string&) {
    return synthetic_calibration(method, sim::model_config(*tiny()).card);
  });
}

// Whether a preset can run in a closed loop: not if it needs queries that a running model has not asked yet. Which
// these are is told by name in closed_properties_test.cpp.
inline bool in_closed_loop(const std::string& preset) {
  const auto signals = sim::needed_signals(*sim::bind_policy(preset));
  return std::find(signals.begin(), signals.end(), sim::Signal::future_queries) == signals.end();
}

inline std::vector<std::string> closed_presets() {
  std::vector<std::string> out;
  for (const std::string& name : sim::preset_names())
    if (in_closed_loop(name)) out.push_back(name);
  return out;
}

inline constexpr std::array schedules{"prefill_end", "chunk(size=64)",     "chunk(size=128)", "step", "every(n=3)",
                                      "segment",     "segment(scope=new)", "each_layer",      "never"};

inline std::string line_of(const std::string& score, const std::string& schedule) {
  return "score=" + score + " budget=uniform select=topk act=drop schedule=" + schedule + " read=all";
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
