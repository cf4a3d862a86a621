#include "replay/closed_loop/closed_loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <functional>
#include <limits>
#include <mutex>

#include "core/error.h"
#include "core/parallel.h"
#include "core/policy_line.h"
#include "replay/closed_loop/answer_token.h"
#include "replay/closed_loop/compression.h"
#include "replay/closed_loop/live_signals.h"
#include "replay/closed_loop/policy_cache.h"
#include "replay/closed_loop/probe_store.h"
#include "replay/closed_loop/tails.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/score_store.h"
#include "sim/model/cuda_runtime.h"

namespace kvgrind::replay {
namespace {

constexpr std::array<std::string_view, 4> turn_names = {"blind", "aware", "repeat", "multi"};

// Tokens before the compression moment, run once with the full cache.
struct Prefix {
  std::shared_ptr<LiveSignals> signals;
  std::unique_ptr<sim::CacheState> cache;
  std::int64_t tokens = 0;
  Role role = Role::context;
  std::unique_ptr<sim::ScoreStore> scores = std::make_unique<sim::ScoreStore>();
  std::vector<float> last_logits;  // of the last prefix token: they predict the token after it
};

class BothTaps final : public Tap {
 public:
  BothTaps(Tap* first, Tap& second) : first_(first), second_(second) {}
  TapNeeds needs(std::int64_t layer) const override {
    return first_ ? TapNeeds::both(first_->needs(layer), second_.needs(layer)) : second_.needs(layer);
  }
  void begin(const TapPass& pass) override {
    if (first_) first_->begin(pass);
    second_.begin(pass);
  }
  bool wants_probabilities(std::int64_t layer) const override {
    return (first_ && first_->wants_probabilities(layer)) || second_.wants_probabilities(layer);
  }
  void probabilities(const TapProbabilities& block) override {
    if (first_ && first_->wants_probabilities(block.layer)) first_->probabilities(block);
    if (second_.wants_probabilities(block.layer)) second_.probabilities(block);
  }
  void layer(const TapLayer& shown) override {
    if (first_) first_->layer(shown);
    second_.layer(shown);
  }
  void end(const TapEnd& shown) override {
    if (first_) first_->end(shown);
    second_.end(shown);
  }

 private:
  Tap* first_;  // may be null
  Tap& second_;
};

}  // namespace

std::string_view turns_name(Turns turns) { return turn_names[static_cast<std::size_t>(turns)]; }

Turns turns_from_name(std::string_view name) {
  for (std::size_t i = 0; i < turn_names.size(); ++i)
    if (turn_names[i] == name) return static_cast<Turns>(i);
  const std::vector<std::string> names(turn_names.begin(), turn_names.end());
  const std::string near = nearest_name(name, names);
  throw Error(Category::usage, {.doing = "reading the protocol",
                                .found = fmt::format("`{}`", name),
                                .expected = fmt::format("one of {}", fmt::join(names, ", ")),
                                .next = near.empty() ? "" : fmt::format("did you mean `{}`?", near)});
}

bool QuestionOutcome::exact() const {
  return std::all_of(tokens.begin(), tokens.end(), [](const AnswerToken& token) { return token.right; });
}

std::pair<std::int64_t, std::int64_t> free_answer_tokens(const Suite& suite) {
  std::vector<const std::vector<std::int32_t>*> answers;
  for (const SuitePrompt& prompt : suite.prompts)
    for (const SuiteQuestion& question : prompt.questions) answers.push_back(&question.answer);
  if (answers.size() < 2) return {0, 0};
  std::size_t shortest = answers[0]->size();
  for (const auto* answer : answers) shortest = std::min(shortest, answer->size());
  const auto same = [&](auto at) {
    return std::all_of(answers.begin(), answers.end(), [&](const auto* a) { return at(*a) == at(*answers[0]); });
  };
  std::size_t front = 0, back = 0;
  while (front < shortest && same([&](const auto& a) { return a[front]; })) ++front;
  while (front + back < shortest && same([&](const auto& a) { return a[a.size() - 1 - back]; })) ++back;
  return {static_cast<std::int64_t>(front), static_cast<std::int64_t>(back)};
}

struct ClosedPrompt::State {
  std::shared_ptr<const sim::Model> model;
  SuitePrompt prompt;
  std::int64_t sequence = 0;
  ClosedOptions options;
  Watched kept_signals;
  sim::RunOptions run_options;
  Prefix context_prefix;  // lives as long as the prefixes that extend it
  std::vector<Prefix> prefixes;
  std::vector<Tail> tails;

  mutable std::mutex mutex, probe_mutex;
  mutable std::shared_ptr<const ProbeStore> probes = std::make_shared<ProbeStore>();
  mutable std::array<std::optional<std::vector<std::vector<Distribution>>>, 3> reference;  // by pace

  const ModelCard& card() const { return sim::model_config(*model).card; }

  // With the passes of these kinds, made once a prompt.
  std::shared_ptr<const ProbeStore> probes_for(const std::vector<ProbeKind>& kinds) const {
    const std::lock_guard lock(probe_mutex);
    for (const ProbeKind kind : kinds) {
      if (probes->columns.contains(kind)) continue;
      auto more = std::make_shared<ProbeStore>(*probes);
      const Prefix& context = context_prefix.cache ? context_prefix : prefixes[0];
      run_probes({*model, run_options, *context.cache, options.prefill_chunk}, {prompt.context, 0, prompt.spans},
                 options.probes, kind, *more);
      probes = std::move(more);
    }
    return probes;
  }

  Prefix extend(const Prefix* base, std::span<const std::int32_t> ids, Role role) const {
    Prefix out;
    out.role = role;
    const std::int64_t first = base ? base->tokens : 0;
    out.tokens = first + static_cast<std::int64_t>(ids.size());
    std::vector<Segment> segments;
    if (base) segments.assign(base->signals->segments().begin(), base->signals->segments().end());
    segments.push_back({role, first, out.tokens});
    out.signals = std::make_shared<LiveSignals>(model, std::move(segments), prompt.spans,
                                                base ? base->signals : nullptr, kept_signals);
    const auto n = static_cast<std::int64_t>(ids.size());
    out.cache =
        std::make_unique<sim::CacheState>(base ? base->cache->with_room(n) : sim::CacheState(card()).with_room(n));
    sim::Feed feed{
        .sequence = sequence, .first = first, .ids = ids, .cache = out.cache.get(), .tap = out.signals.get()};
    feed.logits_of = {n - 1};
    const Array<float, 2> logits = sim::prefill(*model, feed, options.prefill_chunk, run_options);
    out.last_logits.assign(logits.data(), logits.data() + logits.extent(1));
    out.signals->set_full_cache(out.cache.get());
    return out;
  }

  // Feeds all tails and hears of every target.
  void feed(std::span<sim::KvCache* const> caches, std::span<Tap* const> taps, Pace pace,
            const std::function<void(std::span<const TailPiece>)>& done,
            const std::function<void(std::size_t, std::size_t, std::span<const float>)>& logits) const {
    feed_tails({*model, run_options, sequence, tails, caches, taps, pace}, done, logits);
  }

  const std::vector<std::vector<Distribution>>& reference_of(Pace pace) const {
    const std::lock_guard lock(mutex);
    auto& slot = reference[static_cast<std::size_t>(pace)];
    if (!slot) {
      std::vector<sim::CacheState> caches;
      for (const Tail& tail : tails) caches.push_back(prefixes[tail.prefix].cache->with_room(tail.rows()));
      std::vector<sim::KvCache*> pointers;
      for (sim::CacheState& cache : caches) pointers.push_back(&cache);
      slot.emplace();
      for (const Tail& tail : tails) slot->emplace_back(tail.targets.size());
      feed(pointers, {}, pace, nullptr, [&](std::size_t t, std::size_t i, std::span<const float> logits) {
        (*slot)[t][i] = distribution_of(logits);
      });
    }
    return *slot;
  }

  void take(JobOutcome& out, const std::vector<std::vector<Distribution>>& full, std::size_t t, std::size_t i,
            std::span<const float> logits) const {
    const Tail::Target& target = tails[t].targets[i];
    // Targets of a question come in order, but tails finish in any order.
    std::size_t place = 0;
    for (std::size_t k = 0; k < i; ++k) place += tails[t].targets[k].question == target.question;
    auto& tokens = out.questions[target.question].tokens;
    if (tokens.size() <= place) tokens.resize(place + 1);
    tokens[place] = answer_token(target, full[t][i], logits, options.kl);
  }

  void figures(JobOutcome& out, std::span<const sim::CacheState* const> caches) const {
    out.kept_min = std::numeric_limits<std::int64_t>::max();
    double groups = 0;
    std::int64_t touched = 0;
    for (const sim::CacheState* cache : caches) {
      const sim::Ledger ledger = cache->ledger();
      ledger.check();
      out.stored_bytes += ledger.stored_bytes();
      out.full_bytes += ledger.full_bytes;
      touched += ledger.touched_bytes;
      for (std::int64_t l = 0; l < cache->layers(); ++l)
        for (std::int64_t h = 0; h < cache->heads(); ++h) {
          const std::int64_t kept = cache->group(l, h).size();
          out.kept_min = std::min(out.kept_min, kept);
          out.kept_max = std::max(out.kept_max, kept);
          out.kept_mean += static_cast<double>(kept);
          ++groups;
        }
    }
    out.kept_mean /= std::max(1.0, groups);
    const auto full = static_cast<double>(std::max<std::int64_t>(1, out.full_bytes));
    out.stored_fraction = static_cast<double>(out.stored_bytes) / full;
    out.touched_fraction = static_cast<double>(touched) / full;
  }

  // How the policy's tails are fed: it must hear of what it might fire at.
  Pace pace_of(const sim::BoundPolicy& policy) const {
    if (sim::needs_steps(policy)) return Pace::steps;
    if (sim::one_shot(policy)) return Pace::whole;
    std::int64_t longest = 0;
    for (const Tail& tail : tails) longest = std::max(longest, tail.rows());
    const std::int64_t chunk = sim::wanted_chunk(policy);
    return chunk > 0 && longest < chunk ? Pace::whole : Pace::segments;
  }

  PrefixShape shape(const Prefix& prefix) const {
    return {static_cast<std::int64_t>(prompt.context.size()), prefix.tokens, prefix.role};
  }

  // One policy on one prefix, at its compression moment or later. Filled in place: the cache refers to the signals.
  struct Compressed {
    std::shared_ptr<LiveSignals> signals;
    std::unique_ptr<PolicyCache> cache;
  };
  Compressed compressed(const Prefix& prefix, sim::RunSetup setup, const ClosedObservers& observers,
                        const std::shared_ptr<const ProbeStore>& shown) const {
    const bool running = options.compressed_prefill && decides_in_prefill(*setup.policy);
    const sim::BoundPolicy& policy = *setup.policy;
    if (!running) setup.scores = prefix.scores.get();
    Compressed out;
    out.signals = std::make_shared<LiveSignals>(model, segments_of(prefix), prompt.spans,
                                                running ? nullptr : prefix.signals, running ? Watched{} : kept_signals);
    out.signals->set_probes(shown);
    out.cache = std::make_unique<PolicyCache>(
        running ? sim::CacheState(card(), sim::cache_granularity(policy)) : cache_at_start(policy, *prefix.cache),
        setup, *out.signals);
    if (observers.on_plan) out.cache->run().on_plan(observers.on_plan);
    if (!running) {
      compress(policy, *out.cache, *prefix.cache, shape(prefix));
      return out;
    }
    std::vector<std::int32_t> ids(prompt.context);
    if (prefix.role == Role::question) {
      const auto& question = prompt.questions[static_cast<std::size_t>(&prefix - prefixes.data())].question;
      ids.insert(ids.end(), question.begin(), question.end());
    }
    compress_running(policy, *out.cache, *out.signals, {*model, run_options, sequence, ids, options.prefill_chunk},
                     shape(prefix));
    return out;
  }

  static std::vector<Segment> segments_of(const Prefix& prefix) {
    return {prefix.signals->segments().begin(), prefix.signals->segments().end()};
  }

  // The same at one tail's own disposal: the policy goes on deciding there.
  Compressed fork(const Compressed& base, const Prefix& prefix, const Tail& tail, const sim::BoundPolicy& policy,
                  const std::shared_ptr<const ProbeStore>& shown) const {
    const bool running = base.signals->owns_prefix();
    Compressed out;
    out.signals =
        std::make_shared<LiveSignals>(model, segments_of(prefix), prompt.spans, running ? base.signals : prefix.signals,
                                      running ? Watched{} : kept_signals);
    out.signals->set_probes(shown);
    // Not on a device, whose sums have another order; not where keys may change between attention and the decision.
    if (sim::needs_steps(policy) && !policy.schedule_row().layers && !sim::device_of(*model))
      out.signals->watch_newest();
    out.cache = std::make_unique<PolicyCache>(*base.cache, *out.signals, tail.rows());
    return out;
  }

  void events(const sim::BoundPolicy& policy, const Compressed& run, const Tail& tail, std::int64_t first,
              std::int64_t n) const {
    PolicyCache& cache = *run.cache;
    const std::int64_t offset = tail.first;
    if (sim::needs_steps(policy)) {
      cache.run().step_done(offset + first);
      run.signals->forget_newest();
    } else {
      if (first + n == tail.rows()) return;  // nothing is read any more
      cache.run().chunk_done(offset + first, n);
    }
    for (const Segment& segment : tail.segments)
      if (segment.end > first && segment.end <= first + n)
        cache.run().segment_end(segment.role, offset + segment.end, false);
  }

  JobOutcome run(const EvalJob& job, const ClosedObservers& observers) const {
    std::vector<ProbeKind> kinds;
    for (const sim::Signal signal : sim::needed_signals(*job.policy))
      if (const auto kind = probe_kind(signal))
        kinds.push_back(*kind);
      else if (!prefixes[0].signals->has(signal))
        throw Error(Category::usage, {.doing = "running in the closed loop",
                                      .on = sim::typed_text(*job.policy),
                                      .found = fmt::format("a need for signal {}", sim::signal_name(signal)),
                                      .expected = "signals that a running model can give, and that policies named "
                                                  "beforehand ask for"});
    const std::shared_ptr<const ProbeStore> shown = probes_for(kinds);
    const Pace pace = pace_of(*job.policy);
    const bool heard = pace != Pace::whole;  // the policy goes on deciding in the tails
    // On the CPU, pieces give the same, bitwise: a row depends on itself and its keys alone. Not so on a device.
    const auto& full = reference_of(sim::device_of(*model) ? pace : Pace::whole);
    JobOutcome out;
    out.questions.resize(prompt.questions.size());
    for (const ProbeKind kind : kinds) out.probe_tokens += shown->fed_tokens.at(kind);
    const sim::RunSetup setup{.policy = job.policy, .amount = job.amount, .seed = job.seed, .sequence = sequence};

    // Each prefix is compressed once; its tails are copies, and a policy that hears them has one each.
    std::vector<Compressed> bases(prefixes.size()), forks;
    std::vector<std::unique_ptr<sim::CacheState>> copies;
    std::vector<sim::KvCache*> pointers;
    std::vector<Tap*> taps(tails.size(), nullptr);
    for (std::size_t t = 0; t < tails.size(); ++t) {
      const Tail& tail = tails[t];
      const Prefix& prefix = prefixes[tail.prefix];
      Compressed& base = bases[tail.prefix];
      if (!base.cache) base = compressed(prefix, setup, observers, shown);
      if (heard) {
        forks.push_back(fork(base, prefix, tail, *job.policy, shown));
        pointers.push_back(forks.back().cache.get());
        taps[t] = forks.back().signals.get();
        continue;
      }
      copies.push_back(std::make_unique<sim::CacheState>(base.cache->state().with_room(tail.rows())));
      pointers.push_back(copies.back().get());
    }
    std::optional<BothTaps> watched;
    if (observers.first_tail) taps[0] = &watched.emplace(taps[0], *observers.first_tail);
    const std::vector<Compressed>& runs = heard ? forks : bases;
    std::erase_if(bases, [](const Compressed& base) { return !base.cache; });  // no tail stands on it
    std::vector<const sim::CacheState*> states;
    for (const Compressed& one : runs) states.push_back(&one.cache->state());
    if (pace != Pace::steps) figures(out, states);
    double requested = 0, groups = 0;
    for (const Compressed& one : runs)
      for (const std::int64_t n : one.cache->run().requested()) {
        requested += static_cast<double>(n);
        ++groups;
      }
    out.requested_mean = groups > 0 ? requested / groups : 0;

    std::function<void(std::span<const TailPiece>)> done;
    if (heard)
      done = [&](std::span<const TailPiece> pieces) {
        const auto one = [&](std::int64_t p) {
          const TailPiece& piece = pieces[static_cast<std::size_t>(p)];
          events(*job.policy, forks[piece.tail], tails[piece.tail], piece.first, piece.rows);
        };
        const auto n = static_cast<std::int64_t>(pieces.size());
        parallel_for(n, one, observers.on_plan ? n : 1);  // an observer hears one plan after the other
      };
    feed(pointers, taps, pace, done,
         [&](std::size_t t, std::size_t i, std::span<const float> logits) { take(out, full, t, i, logits); });
    if (pace == Pace::steps) figures(out, states);
    for (const Compressed& one : runs) {
      out.slots_called += one.cache->run().slots_called();
      out.nan_scores += one.cache->run().nan_scores();
    }
    return out;
  }
};

ClosedPrompt::ClosedPrompt(std::shared_ptr<const sim::Model> model, const SuitePrompt& prompt, std::int64_t sequence,
                           const ClosedOptions& options, std::int64_t free_front, std::int64_t free_back)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.model = std::move(model);
  s.prompt = prompt;
  s.sequence = sequence;
  s.options = options;
  if (!options.policies.empty()) s.kept_signals = Watched::by(options.policies);
  std::int64_t longest = 0;
  for (const SuiteQuestion& q : prompt.questions)
    longest += static_cast<std::int64_t>(2 * q.question.size() + q.answer.size());
  s.run_options.announced_length = static_cast<std::int64_t>(prompt.context.size()) + longest;
  s.prefixes.reserve(prompt.questions.size() + 1);
  const bool asked_first = options.turns == Turns::aware || options.turns == Turns::repeat;
  s.context_prefix = s.extend(nullptr, prompt.context, Role::context);
  if (asked_first) {
    for (const SuiteQuestion& q : prompt.questions) {
      if (q.question.empty())
        throw Error(Category::usage, {.doing = "running protocol " + std::string(turns_name(options.turns)),
                                      .found = "a prompt without a question",
                                      .expected = "questions to be aware of",
                                      .next = "use --protocol blind for prose"});
      s.prefixes.push_back(s.extend(&s.context_prefix, q.question, Role::question));
    }
  } else {
    s.prefixes.push_back(std::move(s.context_prefix));
  }
  for (std::size_t q = 0; q < prompt.questions.size(); ++q) {
    if (q == 0 || options.turns != Turns::multi) {
      const std::size_t prefix = asked_first ? q : 0;
      s.tails.push_back(
          {.prefix = prefix, .first = s.prefixes[prefix].tokens, .logits_before = s.prefixes[prefix].last_logits});
    }
    s.tails.back().add_turn(q, s.prompt.questions[q], options.turns != Turns::aware, free_front, free_back);
  }
}

ClosedPrompt::~ClosedPrompt() = default;

JobOutcome ClosedPrompt::run(const EvalJob& job) const { return state_->run(job, {}); }

JobOutcome ClosedPrompt::run_observed(const EvalJob& job, const ClosedObservers& observers) const {
  return state_->run(job, observers);
}

JobOutcome ClosedPrompt::run_full(bool stepwise) const {
  const State& s = *state_;
  const auto& full = s.reference_of(stepwise ? Pace::steps : Pace::whole);
  JobOutcome out;
  out.questions.resize(s.prompt.questions.size());
  for (std::size_t t = 0; t < s.tails.size(); ++t)
    for (std::size_t i = 0; i < s.tails[t].targets.size(); ++i) {
      const Tail::Target& target = s.tails[t].targets[i];
      out.questions[target.question].tokens.push_back(full_token(target, full[t][i]));
    }
  std::vector<const sim::CacheState*> states;
  for (const Prefix& prefix : s.prefixes) states.push_back(prefix.cache.get());
  s.figures(out, states);
  return out;
}

}  // namespace kvgrind::replay
