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
#include "core/policy_line.h"
#include "replay/closed_loop/live_signals.h"
#include "replay/closed_loop/policy_cache.h"

namespace kvgrind::replay {
namespace {

constexpr std::array<std::string_view, 4> turn_names = {"blind", "aware", "repeat", "multi"};

// Tokens before the compression moment, run once with the full cache.
struct Prefix {
  std::shared_ptr<LiveSignals> signals;
  std::unique_ptr<sim::CacheState> cache;
  std::int64_t tokens = 0;
  Role role = Role::context;
  std::vector<float> last_logits;  // of the last prefix token: they predict the token after it
};

// One stretch of teacher-forced tokens on a cache: ids fed after a prefix, with the answers that lie inside.
struct Tail {
  std::size_t prefix = 0;
  std::vector<std::int32_t> ids;
  // Answer tokens: predicted by row `row` of the tail, −1 = by the prefix's last logits.
  struct Target {
    std::int64_t row = 0;
    std::int32_t id = 0;
    std::size_t question = 0;
    bool free = false;
  };
  std::vector<Target> targets;
};

struct Distribution {  // of one target under the full cache
  std::vector<float> log_p;
  std::int32_t top = 0;
};

std::int32_t arg_max(std::span<const float> values) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < values.size(); ++i)
    if (values[i] > values[best]) best = i;
  return static_cast<std::int32_t>(best);
}

// Natural log-softmax, the sum in double.
std::vector<float> log_softmax(std::span<const float> logits) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x - top));
  const double lse = top + std::log(sum);
  std::vector<float> out(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) out[i] = static_cast<float>(logits[i] - lse);
  return out;
}

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
  sim::RunOptions run_options;
  Prefix context_prefix;  // lives as long as the prefixes that extend it
  std::vector<Prefix> prefixes;
  std::vector<Tail> tails;

  mutable std::mutex mutex;
  mutable std::array<std::optional<std::vector<std::vector<Distribution>>>, 2> reference;  // batch, stepwise

  const ModelCard& card() const { return sim::model_config(*model).card; }

  Prefix extend(const Prefix* base, std::span<const std::int32_t> ids, Role role) const {
    Prefix out;
    out.role = role;
    const std::int64_t first = base ? base->tokens : 0;
    out.tokens = first + static_cast<std::int64_t>(ids.size());
    std::vector<Segment> segments;
    if (base) segments.assign(base->signals->segments().begin(), base->signals->segments().end());
    segments.push_back({role, first, out.tokens});
    out.signals =
        std::make_shared<LiveSignals>(model, std::move(segments), prompt.spans, base ? base->signals : nullptr);
    out.cache = base ? std::make_unique<sim::CacheState>(*base->cache) : std::make_unique<sim::CacheState>(card());
    sim::Feed feed{
        .sequence = sequence, .first = first, .ids = ids, .cache = out.cache.get(), .tap = out.signals.get()};
    feed.logits_of = {static_cast<std::int64_t>(ids.size()) - 1};
    const Array<float, 2> logits = sim::prefill(*model, feed, options.prefill_chunk, run_options);
    out.last_logits.assign(logits.data(), logits.data() + logits.extent(1));
    out.signals->set_full_cache(out.cache.get());
    return out;
  }

  void add_turn(Tail& tail, std::size_t question, bool with_question, std::int64_t free_front, std::int64_t free_back) {
    const SuiteQuestion& asked = prompt.questions[question];
    if (with_question) tail.ids.insert(tail.ids.end(), asked.question.begin(), asked.question.end());
    const auto n = static_cast<std::int64_t>(asked.answer.size());
    for (std::int64_t i = 0; i < n; ++i) {
      tail.targets.push_back({static_cast<std::int64_t>(tail.ids.size()) - 1, asked.answer[static_cast<std::size_t>(i)],
                              question, i < free_front || i >= n - free_back});
      tail.ids.push_back(asked.answer[static_cast<std::size_t>(i)]);
    }
  }

  // One cache per tail, advanced together; calls `logits(tail, target, row)` for every target.
  template <class Logits>
  void feed_tails(std::span<sim::KvCache* const> caches, std::span<Tap* const> taps, bool stepwise,
                  const std::function<void(std::size_t, std::int64_t)>& step_done, Logits&& logits) const {
    std::int64_t longest = 0;
    for (const Tail& tail : tails) longest = std::max(longest, rows(tail));
    const std::int64_t stride = stepwise ? 1 : std::max<std::int64_t>(longest, 1);
    for (std::int64_t at = 0; at < longest; at += stride) {
      std::vector<sim::Feed> feeds;
      std::vector<std::size_t> which;
      for (std::size_t t = 0; t < tails.size(); ++t) {
        const std::int64_t n = std::min(stride, rows(tails[t]) - at);
        if (n <= 0) continue;
        sim::Feed feed{
            .sequence = sequence,
            .first = prefixes[tails[t].prefix].tokens + at,
            .ids = std::span(tails[t].ids).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(n)),
            .cache = caches[t],
            .tap = taps.empty() ? nullptr : taps[t],
            .decode = stepwise};
        for (const Tail::Target& target : tails[t].targets)
          if (target.row >= at && target.row < at + n) feed.logits_of.push_back(target.row - at);
        feeds.push_back(std::move(feed));
        which.push_back(t);
      }
      const auto out = sim::forward(*model, feeds, run_options);
      for (std::size_t f = 0; f < feeds.size(); ++f) {
        const std::size_t t = which[f];
        std::int64_t row = 0;
        for (std::size_t i = 0; i < tails[t].targets.size(); ++i) {
          const std::int64_t r = tails[t].targets[i].row;
          if (r >= at && r < at + static_cast<std::int64_t>(feeds[f].ids.size()))
            logits(t, i,
                   std::span<const float>(out[f].data() + (row++) * out[f].extent(1),
                                          static_cast<std::size_t>(out[f].extent(1))));
        }
        if (step_done) step_done(t, feeds[f].first + static_cast<std::int64_t>(feeds[f].ids.size()) - 1);
      }
    }
    for (std::size_t t = 0; t < tails.size(); ++t)
      for (std::size_t i = 0; i < tails[t].targets.size(); ++i)
        if (tails[t].targets[i].row < 0) logits(t, i, std::span<const float>(prefixes[tails[t].prefix].last_logits));
  }

  // Tokens that must be fed: the last target itself is never read.
  static std::int64_t rows(const Tail& tail) { return tail.targets.empty() ? 0 : tail.targets.back().row + 1; }

  const std::vector<std::vector<Distribution>>& reference_of(bool stepwise) const {
    const std::lock_guard lock(mutex);
    auto& slot = reference[stepwise ? 1 : 0];
    if (!slot) {
      std::vector<sim::CacheState> caches;
      for (const Tail& tail : tails) caches.push_back(*prefixes[tail.prefix].cache);
      std::vector<sim::KvCache*> pointers;
      for (sim::CacheState& cache : caches) pointers.push_back(&cache);
      slot.emplace();
      for (const Tail& tail : tails) slot->emplace_back(tail.targets.size());
      feed_tails(pointers, {}, stepwise, nullptr, [&](std::size_t t, std::size_t i, std::span<const float> logits) {
        (*slot)[t][i] = {log_softmax(logits), arg_max(logits)};
      });
    }
    return *slot;
  }

  void take(JobOutcome& out, const std::vector<std::vector<Distribution>>& full, std::size_t t, std::size_t i,
            std::span<const float> logits) const {
    const Tail::Target& target = tails[t].targets[i];
    const Distribution& reference_token = full[t][i];
    const std::vector<float> log_p = log_softmax(logits);
    AnswerToken token;
    token.nll = -static_cast<double>(log_p[static_cast<std::size_t>(target.id)]);
    token.nll_full = -static_cast<double>(reference_token.log_p[static_cast<std::size_t>(target.id)]);
    const std::int32_t top = arg_max(logits);
    token.right = top == target.id;
    token.right_full = reference_token.top == target.id;
    token.same_top = top == reference_token.top;
    token.free = target.free;
    if (options.kl)
      for (std::size_t v = 0; v < log_p.size(); ++v)
        token.kl += std::exp(static_cast<double>(reference_token.log_p[v])) *
                    (static_cast<double>(reference_token.log_p[v]) - static_cast<double>(log_p[v]));
    // Targets of a question come in order, but tails finish in any order.
    std::size_t place = 0;
    for (std::size_t k = 0; k < i; ++k) place += tails[t].targets[k].question == target.question;
    auto& tokens = out.questions[target.question].tokens;
    if (tokens.size() <= place) tokens.resize(place + 1);
    tokens[place] = token;
  }

  void figures(JobOutcome& out, std::span<const sim::CacheState* const> caches) const {
    out.kept_min = std::numeric_limits<std::int64_t>::max();
    double groups = 0;
    for (const sim::CacheState* cache : caches) {
      const sim::Ledger ledger = cache->ledger();
      ledger.check();
      out.stored_bytes += ledger.stored_bytes();
      out.full_bytes += ledger.full_bytes;
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
    out.stored_fraction =
        out.full_bytes > 0 ? static_cast<double>(out.stored_bytes) / static_cast<double>(out.full_bytes) : 1.0;
  }

  // The prefix run anew through the policy's own cache, compressed on the way.
  void compressed_prefill(PolicyCache& cache, LiveSignals& signals, const Prefix& prefix) const {
    const std::int64_t context = static_cast<std::int64_t>(prompt.context.size());
    std::vector<std::int32_t> ids(prompt.context);
    if (prefix.role == Role::question) {
      const auto& question = prompt.questions[static_cast<std::size_t>(&prefix - prefixes.data())].question;
      ids.insert(ids.end(), question.begin(), question.end());
    }
    const std::int64_t chunk = std::max<std::int64_t>(64, options.prefill_chunk);
    for (std::int64_t at = 0; at < prefix.tokens;) {
      const std::int64_t stop = at < context ? std::min(context, at + chunk) : std::min(prefix.tokens, at + chunk);
      sim::Feed feed{.sequence = sequence,
                     .first = at,
                     .ids = std::span(ids).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(stop - at)),
                     .cache = &cache,
                     .tap = &signals};
      const std::vector<sim::Feed> feeds{feed};
      (void)sim::forward(*model, feeds, run_options);
      cache.run().chunk_done(at, stop - at);
      if (stop == context) cache.run().segment_end(Role::context, context, prefix.tokens == context);
      at = stop;
    }
    if (prefix.role == Role::question) cache.run().segment_end(Role::question, prefix.tokens, true);
  }

  JobOutcome run(const EvalJob& job, const std::function<void(const sim::GroupPlan&)>& observer) const {
    for (const sim::Signal signal : sim::needed_signals(*job.policy))
      if (!prefixes[0].signals->has(signal))
        throw Error(Category::usage, {.doing = "running in the closed loop",
                                      .on = sim::typed_text(*job.policy),
                                      .found = fmt::format("a need for signal {}", sim::signal_name(signal)),
                                      .expected = "signals that a running model can give"});
    const bool stepwise = sim::needs_steps(*job.policy);
    const auto& full = reference_of(stepwise);
    JobOutcome out;
    out.questions.resize(prompt.questions.size());
    const sim::RunSetup setup{.policy = job.policy, .amount = job.amount, .seed = job.seed, .sequence = sequence};

    // Compress each prefix once; a one-shot policy's tails then only copy the compressed cache.
    std::vector<std::unique_ptr<PolicyCache>> caches;
    std::vector<std::unique_ptr<LiveSignals>> signals;
    std::vector<std::unique_ptr<sim::CacheState>> copies;
    std::vector<sim::KvCache*> pointers;
    std::vector<Tap*> taps;
    std::vector<PolicyCache*> of_prefix(prefixes.size(), nullptr);
    const sim::Granularity heads = sim::cache_granularity(*job.policy);
    const auto compress = [&](const Prefix& prefix) -> PolicyCache& {
      const auto base = options.compressed_prefill ? nullptr : prefix.signals;
      auto segments = std::vector<Segment>(prefix.signals->segments().begin(), prefix.signals->segments().end());
      signals.push_back(std::make_unique<LiveSignals>(model, std::move(segments), prompt.spans, base));
      caches.push_back(std::make_unique<PolicyCache>(
          options.compressed_prefill ? sim::CacheState(card(), heads) : sim::CacheState(*prefix.cache, heads), setup,
          *signals.back()));
      PolicyCache& cache = *caches.back();
      if (observer) cache.run().on_plan(observer);
      if (options.compressed_prefill) {
        compressed_prefill(cache, *signals.back(), prefix);
      } else {
        const auto context = static_cast<std::int64_t>(prompt.context.size());
        for (std::int64_t l = 0; l < card().layers; ++l) cache.run().layer_done(l, 0, prefix.tokens);
        cache.run().chunk_done(0, prefix.tokens);
        if (prefix.tokens > context) cache.run().segment_end(Role::context, context, false);
        cache.run().segment_end(prefix.role, prefix.tokens, true);
      }
      return cache;
    };
    for (std::size_t t = 0; t < tails.size(); ++t) {
      const Prefix& prefix = prefixes[tails[t].prefix];
      PolicyCache*& compressed = of_prefix[tails[t].prefix];
      if (stepwise || !compressed) {
        compressed = &compress(prefix);
        if (stepwise) {
          pointers.push_back(compressed);
          taps.push_back(signals.back().get());
          continue;
        }
      }
      copies.push_back(std::make_unique<sim::CacheState>(compressed->state()));
      pointers.push_back(copies.back().get());
    }
    std::vector<const sim::CacheState*> states;
    for (const auto& cache : caches) states.push_back(&cache->state());
    if (!stepwise) figures(out, states);
    double requested = 0, groups = 0;
    for (const auto& cache : caches)
      for (const std::int64_t n : cache->run().requested()) {
        requested += static_cast<double>(n);
        ++groups;
      }
    out.requested_mean = groups > 0 ? requested / groups : 0;

    std::function<void(std::size_t, std::int64_t)> step_done;
    if (stepwise) step_done = [&](std::size_t t, std::int64_t position) { caches[t]->run().step_done(position); };
    feed_tails(pointers, taps, stepwise, step_done,
               [&](std::size_t t, std::size_t i, std::span<const float> logits) { take(out, full, t, i, logits); });
    if (stepwise) figures(out, states);
    for (const auto& cache : caches) {
      out.slots_called += cache->run().slots_called();
      out.nan_scores += cache->run().nan_scores();
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
    if (q == 0 || options.turns != Turns::multi) s.tails.push_back({asked_first ? q : 0, {}, {}});
    s.add_turn(s.tails.back(), q, options.turns != Turns::aware, free_front, free_back);
  }
}

ClosedPrompt::~ClosedPrompt() = default;

JobOutcome ClosedPrompt::run(const EvalJob& job) const { return state_->run(job, nullptr); }

JobOutcome ClosedPrompt::run_observed(const EvalJob& job,
                                      const std::function<void(const sim::GroupPlan&)>& observer) const {
  return state_->run(job, observer);
}

JobOutcome ClosedPrompt::run_full(bool stepwise) const {
  const State& s = *state_;
  const auto& full = s.reference_of(stepwise);
  JobOutcome out;
  out.questions.resize(s.prompt.questions.size());
  for (std::size_t t = 0; t < s.tails.size(); ++t)
    for (std::size_t i = 0; i < s.tails[t].targets.size(); ++i) {
      const Tail::Target& target = s.tails[t].targets[i];
      AnswerToken token;
      token.nll = token.nll_full = -static_cast<double>(full[t][i].log_p[static_cast<std::size_t>(target.id)]);
      token.right = token.right_full = full[t][i].top == target.id;
      token.same_top = true;
      token.free = target.free;
      out.questions[target.question].tokens.push_back(token);
    }
  std::vector<const sim::CacheState*> states;
  for (const Prefix& prefix : s.prefixes) states.push_back(prefix.cache.get());
  s.figures(out, states);
  return out;
}

}  // namespace kvgrind::replay
