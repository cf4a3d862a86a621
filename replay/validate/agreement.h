// How well a figure of the open loop predicts the truth of the closed loop, over cells = method × amount.
// Intervals come from a bootstrap over prompts (all cells of a resample use the same prompts), ranks are tie-aware.
// Beside every correlation stand the null (removed bytes alone) and the ceiling (split-half reliability of the truth).
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace kvgrind::replay {

struct Cell {
  std::string method;                                 // canonical line or preset
  std::string amount;                                 // "0.2"
  bool aware = false;                                 // saw the question: ranked in lists of its own
  bool oracle = false;                                // knows the future: no contender in the decision test
  bool over = false;  // stores more than was asked for: no contender either, or mild codes would win every amount
  std::vector<double> truth;                          // [prompts] loss of probability on the right token
  std::map<std::string, std::vector<double>> figure;  // metric → [prompts]; higher = worse
};

struct Interval {
  double value = 0, lo = 0, hi = 0;  // 95 %
};

struct Agreement {
  std::string figure;
  std::string amount;  // empty = pooled over amounts
  std::int64_t cells = 0, informative_cells = 0;
  Interval spearman, kendall;     // all cells
  Interval spearman_informative;  // cells whose truth lies in the informative range
  double ceiling = 0;             // split-half reliability of the truth, Spearman–Brown corrected
};

struct InformativeRange {
  double low = 0.02, high = 0.55;  // prose: 0.003, 1
};

struct AgreementOptions {
  std::int64_t resamples = 1000;
  std::int64_t splits = 200;
  std::uint64_t seed = 1;
  InformativeRange range;
};

// Pooled first, then one per amount, for every figure that all cells carry.
std::vector<Agreement> agreement(const std::vector<Cell>& cells, const AgreementOptions& options);

// At each amount, among those that keep to it: the method with the lowest figure, and what choosing it gives away against the best one.
struct Decision {
  std::string figure, amount, chosen, best;
  double given_away = 0;  // truth(chosen) − truth(best), mean over prompts
};
std::vector<Decision> decisions(const std::vector<Cell>& cells);

// Cells where the ranks by figure and by truth differ most, worst first.
struct Disagreement {
  std::string figure, method, amount;
  double figure_value = 0, truth = 0;
  double rank_gap = 0;  // (rank by figure − rank by truth) / cells: > 0 = judged worse than it is
};
std::vector<Disagreement> disagreements(const std::vector<Cell>& cells, const std::string& figure, std::int64_t count);

}  // namespace kvgrind::replay
