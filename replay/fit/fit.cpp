#include "replay/fit/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "replay/fit/fit_data.h"
#include "replay/open_loop/protocol.h"

namespace kvgrind::replay {
namespace {

[[noreturn]] void refuse(const std::string& on, const std::string& found, const std::string& expected,
                         const std::string& next = "") {
  throw Error(Category::usage, {.doing = "fitting", .on = on, .found = found, .expected = expected, .next = next});
}

// Sequences by prompt: the root of their forks.
FitSplit split_of(const FitRequest& request, bool future) {
  const ModelCard& card = request.runs.at(0)->card();
  FitSplit out{request, card, {}, {}};
  std::vector<std::vector<FitSequence>> prompts;
  for (const auto& run : request.runs) {
    if (calibration_model(run->card()) != calibration_model(card))
      refuse(request.method, "recordings of different models", "recordings of one model");
    std::map<std::int64_t, std::size_t> place;
    for (const traces::SequenceInfo& info : run->sequences()) {
      FitSequence sequence{run, std::make_shared<OpenSource>(run, info.id), info.id, info.tokens,
                           compression_moment(info.segments, info.tokens, Protocol::blind)};
      if (future && sequence.moment >= info.tokens) continue;  // nothing comes after the context
      const auto [it, fresh] = place.emplace(root_sequence(*run, info.id), prompts.size());
      if (fresh) prompts.emplace_back();
      prompts[it->second].push_back(std::move(sequence));
    }
  }
  if (prompts.size() < 2)
    refuse(request.method,
           fmt::format("{} prompts{}", prompts.size(), future ? " with tokens after their context" : ""),
           "at least two: one is held out",
           future ? "record more contexts with questions and answers" : "record more contexts");
  const auto every = std::max<std::size_t>(2, static_cast<std::size_t>(std::lround(1 / request.held_out)));
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    const bool held = p % every == every - 1 || (prompts.size() < every && p + 1 == prompts.size());
    auto& to = held ? out.held_out : out.fitted;
    to.insert(to.end(), prompts[p].begin(), prompts[p].end());
  }
  return out;
}

}  // namespace

const std::vector<FitMethod>& fit_methods() {
  static const std::vector<FitMethod> methods = {
      {"qfilters", "main direction of each head's queries (second moment)",
       "1 − share of the held-out second moment along the direction", fit_query_directions},
      {"triattention", "mean and mean modulus of each head's queries before rotation",
       "distance of the held-out mean over its norm", fit_query_centres},
      {"expected", "mean and covariance of each head's queries before rotation",
       "distance of the held-out mean over its norm", fit_query_gaussians},
      {"duo", "output error of each head when it sees sinks and recents alone, over the tokens after the context",
       "1 − correlation of the heads' errors with the held-out ones", fit_streaming_error},
      {"locret", "future attention of a token from its own queries, keys and values (least squares, or --hidden)",
       "squared error over variance, held out (1 = no better than the mean)", fit_learned_score},
      {"attention_gate", "whether a token is in the half that the future attends to most (logistic regression)",
       "share of held-out tokens on the wrong side", fit_learned_gate},
      {"kvzap", "logarithm of KVzip+'s score from a token's own queries, keys and values (least squares, or --hidden)",
       "squared error over variance, held out (1 = no better than the mean)", fit_predicted_repeat, false},
      {"fast_kvzip", "a gate that reproduces KVzip's score from a token's own queries, keys and values",
       "cross entropy above that of the held-out scores themselves, in nats", fit_repeat_gate, false},
      {"lukv", "shares of each head at every level that lose least of the attention after the context (--score)",
       "attention lost at 80 % dropped over that of equal shares, held out", fit_head_curves},
      {"prefixkv", "shares of each layer at every level that hold one share of its attention, the same in all",
       "mean distance of a layer's share from the held-out prompt's own, at 50 % dropped", fit_layer_curves, false},
      {"razor", "how much each head looks at what followed before, and at the same token before, in text that repeats",
       "1 − correlation of the first with the held-out one", fit_echo_heads, false},
      {"compresskv", "heads that find again what the answer repeats (needle spans), and what eviction costs each layer",
       "1 − correlation of the heads' scores with the held-out ones", fit_retrieval_heads},
      {"uncomp", "place of each head in its layer, and the layer's profile, by the matrix entropy of queries",
       "1 − correlation of the heads' places with the held-out ones", fit_matrix_entropy, false},
      {"lookaheadkv",
       "queries that, set behind a context, attend to it as the tokens after it do (--vectors, --epochs)",
       "divergence (KL, nats) of their attention from that of the tokens after the context, held out",
       fit_lookahead_queries},
      {"lococo", "a convolution that mixes what is dropped into a few slots (--vectors), by the output's error",
       "squared output error over that of dropping, held out", fit_mixing_filters}};
  return methods;
}

Calibration fit(const FitRequest& request) {
  const auto& methods = fit_methods();
  const auto method = std::find_if(methods.begin(), methods.end(),
                                   [&](const FitMethod& known) { return request.method == known.name; });
  if (method == methods.end()) {
    std::vector<std::string> names;
    for (const FitMethod& known : methods) names.emplace_back(known.name);
    refuse(request.method, "no such fit", fmt::format("one of {}", fmt::join(names, ", ")));
  }
  if (request.runs.empty()) refuse(request.method, "no recording", "at least one");
  if (!(request.held_out > 0 && request.held_out <= 0.5))
    refuse(request.method, fmt::format("a held-out share of {}", request.held_out), "one above 0, at most 0.5");
  const FitSplit split = split_of(request, method->future);
  Calibration out;
  out.method = request.method;
  out.model = calibration_model(split.card);
  out.texts["error"] = method->error;
  method->learn(split, out);
  out.numbers["sequences_fitted"] = static_cast<double>(split.fitted.size());
  out.numbers["sequences_held_out"] = static_cast<double>(split.held_out.size());
  return out;
}

}  // namespace kvgrind::replay
