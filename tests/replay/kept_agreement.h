// Two recordings of one prompt, computed in two ways (levels of the CPU, CPU and device): what every policy decides on
// them, decision by decision. Tokens whose fate differs are near ties when their score lies within `near_tie` of one on
// the other side of the cut, over the groups that share a budget.
#pragma once
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "replay/open_loop/open_loop.h"
#include "sim/engine/bound_policy.h"

namespace kvgrind::tests {

constexpr double near_tie = 1e-5;  // relative

// What one group decided from what: per slot its position, its score, and what became of it (0 dropped, 1 exact,
// 2 + i: coded by codec i).
struct Decision {
  std::int64_t layer = 0, group = 0;
  std::vector<std::int64_t> position;
  std::vector<float> score;
  std::vector<int> fate;
};
using Firing = std::vector<Decision>;

// The firings under way on this thread; the score below fills it, since a row's function carries no state.
inline thread_local std::vector<Firing>* watched = nullptr;

inline void score_watched(const sim::ScoreContext& context, sim::Columns& out) {
  context.evaluate(context.params.call("of"), out);
}
inline void join_watched(const sim::JoinContext& context) {
  Firing firing;
  for (const sim::JoinGroup& group : context.groups)
    firing.push_back({group.layer, group.group, group.slots->position, group.columns->s, {}});
  watched->push_back(std::move(firing));
}

// The policy with its score wrapped in one that passes it through and shows what came out.
inline sim::PolicyPtr watched_policy(const sim::PolicyPtr& policy) {
  static const sim::ParamRow of{"of", sim::ParamType::call, nullptr, "the score", -1e300, 1e300, {"score"}};
  static const sim::ScoreRow row{.name = "watched",
                                 .source = "tests",
                                 .help = "passes a score through",
                                 .params = {of},
                                 .needs = {},
                                 .score = score_watched,
                                 .gives = {"*"},
                                 .join = join_watched,
                                 .by_amount = true};  // joined at every firing: nothing kept from another run
  auto entry = std::make_shared<sim::Params::Entry>();
  entry->row = &of;
  entry->calls = {policy->score};
  auto out = std::make_shared<sim::BoundPolicy>(*policy);
  out->score = {&row, {}};
  out->score.params.entries = {entry};
  return out;
}

// What a plan makes of the slots of its group.
inline void note_fate(Firing& firing, const sim::GroupPlan& plan) {
  for (Decision& one : firing)
    if (one.layer == plan.layer && one.group == plan.group)
      for (std::size_t i = 0; i < plan.keep.size(); ++i)
        one.fate.push_back(!plan.keep[i] ? 0 : plan.k_codec.empty() || plan.k_codec[i] < 0 ? 1 : 2 + plan.k_codec[i]);
}

struct Decided {
  std::vector<Firing> firings;
  replay::OpenOutcome outcome;
};

inline Decided decide(const replay::SequenceData& data, const sim::PolicyPtr& policy, const sim::Amount& amount) {
  Decided out;
  std::vector<Firing>* const before = std::exchange(watched, &out.firings);
  replay::OpenOptions options;
  options.on_plan = [&out](const sim::GroupPlan& plan) { note_fate(out.firings.back(), plan); };
  out.outcome = replay::run_open(data, {watched_policy(policy), amount, replay::Protocol::blind, 3}, options);
  watched = before;
  return out;
}

struct Agreement {
  std::int64_t decisions = 0, slots = 0, kept = 0;
  std::int64_t near_ties = 0;   // slots of another fate, their score at the cut
  std::int64_t rank_ties = 0;   // the same where scores are whole numbers (ranks): within two of the cut
  std::int64_t others = 0;      // slots of another fate, their score away from it
  std::int64_t followers = 0;   // decisions over other slots, an earlier decision having differed
  double largest_metric = 0.0;  // difference of any metric
  std::string worst;            // the first of `others`, in words

  void add(const Agreement& more) {
    decisions += more.decisions, slots += more.slots, kept += more.kept, near_ties += more.near_ties;
    rank_ties += more.rank_ties;
    others += more.others, followers += more.followers;
    largest_metric = std::max(largest_metric, more.largest_metric);
    if (worst.empty()) worst = more.worst;
  }
};

// Smallest distance of slot i's score from that of a slot whose fate is another, among the groups of one budget.
inline double distance_from_cut(const std::vector<const Decision*>& scope, const Decision& mine, std::size_t i,
                                bool relative) {
  const double own = mine.score[i];
  double least = INFINITY;
  for (const Decision* other : scope)
    for (std::size_t j = 0; j < other->fate.size(); ++j)
      if (other->fate[j] != mine.fate[i]) {
        const double s = other->score[j], scale = relative ? std::max(std::fabs(s), std::fabs(own)) : 1.0;
        least = std::min(least, s == own ? 0.0 : std::fabs(s - own) / scale);
      }
  return least;
}

inline Agreement agreement(const Decided& a, const Decided& b, sim::Scope scope) {
  Agreement out;
  for (std::size_t f = 0; f < std::min(a.firings.size(), b.firings.size()); ++f)
    for (std::size_t d = 0; d < std::min(a.firings[f].size(), b.firings[f].size()); ++d) {
      const Decision &x = a.firings[f][d], &y = b.firings[f][d];
      ++out.decisions;
      if (x.position != y.position || x.fate.size() != y.fate.size()) {
        ++out.followers;
        continue;
      }
      out.slots += static_cast<std::int64_t>(x.fate.size());
      out.kept += static_cast<std::int64_t>(x.fate.size()) - std::count(x.fate.begin(), x.fate.end(), 0);
      if (x.fate == y.fate) continue;
      std::vector<const Decision*> sharing;
      for (const Decision& one : a.firings[f])
        if (scope == sim::Scope::model ||
            (one.layer == x.layer && (scope == sim::Scope::layer || one.group == x.group)))
          sharing.push_back(&one);
      for (std::size_t i = 0; i < x.fate.size(); ++i) {
        if (x.fate[i] == y.fate[i]) continue;
        const double distance = distance_from_cut(sharing, x, i, true);
        if (distance <= near_tie) {
          ++out.near_ties;
          continue;
        }
        // A near tie of what is ranked moves the ranks by one.
        const auto whole = [](float score) { return std::floor(score) == score; };
        if (std::all_of(x.score.begin(), x.score.end(), whole) && std::fabs(x.score[i] - y.score[i]) <= 1.0f &&
            distance_from_cut(sharing, x, i, false) <= 2.0) {
          ++out.rank_ties;
          continue;
        }
        ++out.others;
        if (out.worst.empty())
          out.worst = "layer " + std::to_string(x.layer) + " group " + std::to_string(x.group) + " position " +
                      std::to_string(x.position[i]) + " score " + std::to_string(x.score[i]) + " / " +
                      std::to_string(y.score[i]) + ", " + std::to_string(distance) + " from the cut";
      }
    }
  for (const auto& [name, metric] : a.outcome.metrics) {
    const auto it = b.outcome.metrics.find(name);
    if (it != b.outcome.metrics.end())
      out.largest_metric = std::max(out.largest_metric, std::fabs(metric.value - it->second.value));
  }
  return out;
}

}  // namespace kvgrind::tests
