// Which passes a recording or a closed loop makes over a context, worked out from its tokens.
//   repeat: parts of `chunk` tokens; first part: first ∘ suffix ∘ part, later ones: next ∘ last `tail` tokens of the
//   part before ∘ suffix ∘ part. reread: the context's tokens again.
//   episode: the text between context and answer is cut into windows of `window` tokens (or at spans of kind "turn",
//   four to a window); windows are clustered by the mean of their tokens' embeddings; an episode's pass is first ∘
//   suffix ∘ its medoid windows in order of time.
//   source: snu-mllab/KVzip attention/score.py; NVIDIA/kvpress kvzip_press.py, kvcompose_press.py; apple/ml-epicache
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/probe.h"
#include "core/sequence.h"
#include "core/weights.h"
#include "sim/engine/signals.h"
#include "traces/model_files/tokenizer.h"

namespace kvgrind::replay {

// The kind of pass that a signal asks for; none for other signals.
std::optional<ProbeKind> probe_kind(sim::Signal signal);

// Instructions as ids; all may be empty.
struct ProbeText {
  std::vector<std::int32_t> first, next, suffix;
};
// The words of the published code, without a chat template's.
ProbeText probe_text(const traces::Tokenizer& tokenizer);

struct EpisodePlan {
  std::int64_t episodes = 4, medoids = 4, window = 32;
  // A vector that stands for the tokens of a window, of any length but the same for all.
  std::function<std::vector<float>(std::span<const std::int32_t> ids)> embed;
};
// Means of rows of an embedding table [vocab, hidden]; its bytes must stay.
std::function<std::vector<float>(std::span<const std::int32_t> ids)> mean_embedding(const Tensor& table);

struct ProbePlan {
  bool repeat = false, reread = false, episode = false;
  std::int64_t chunk = 2048, sinks = 4, tail = 8;
  ProbeText text = {};
  EpisodePlan episodes = {};
  bool any() const { return repeat || reread || episode; }
};

// "repeat", "repeat=512,reread", "episode=4" (episodes). Error(usage).
ProbePlan parse_probes(std::string_view text);

// Tokens of the context that passes are about: keys before them share the part's softmax.
struct ProbedContext {
  std::span<const std::int32_t> ids;  // positions [0, end of the context)
  std::int64_t begin = 0;             // where the system's words end
  std::vector<Span> spans;            // for episodes: those of kind "turn"
};
// Without a context (no ids): no passes.
std::vector<ProbePass> plan_probes(const ProbedContext& context, const ProbePlan& plan);

// The context of a sequence and where it begins, by its segments: [begin, end).
std::pair<std::int64_t, std::int64_t> probed_range(const std::vector<Segment>& segments, std::int64_t tokens);

// Windows of each episode, in order of time: deterministic k-means (farthest-first start, at most 50 rounds) over unit
// vectors, then for each centre the `medoids` windows nearest to it. Empty clusters are left out.
std::vector<std::vector<std::size_t>> episodes_of(const std::vector<std::vector<float>>& vectors, std::int64_t clusters,
                                                  std::int64_t medoids);

}  // namespace kvgrind::replay
