// Which heads look at what followed the last time (induction), and at the same token before (echo): RazorAttention's
// detection, on recordings of text that repeats itself exactly.
//   in   sequences whose last part has a period P (the same P tokens twice or more)
//   E = {(i, j): j < i, j = i mod P}; echo = Σ over E of A[i][j] / tokens, induction = Σ over E of A[i][j + 1] /
//   tokens; the largest over the query heads of a KV head, mean over the sequences out  "echo", "induction" [L, Hk]
//   errors: a sequence that does not repeat throws Error(usage)
//   source: arXiv 2407.15891; mindspore-ai/golden-stick razor_attention.py
#include "replay/fit/echo_heads.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"
#include "replay/fit/fit_data.h"
#include "replay/statistics/ranks.h"

namespace kvgrind::replay {

// The tokens from the end on: for each length of that reversed list its longest border gives the smallest period.
Repetition find_repetition(const std::vector<std::int32_t>& tokens) {
  const std::size_t n = tokens.size();
  const auto at = [&](std::size_t i) { return tokens[n - 1 - i]; };
  std::vector<std::size_t> border(n + 1, 0);
  Repetition out;
  for (std::size_t i = 1, b = 0; i < n; ++i) {
    while (b > 0 && at(i) != at(b)) b = border[b];
    if (at(i) == at(b)) ++b;
    border[i + 1] = b;
    const std::size_t length = i + 1, period = length - b;
    if (2 * period <= length) out = {static_cast<std::int64_t>(n - length), static_cast<std::int64_t>(period)};
  }
  return out;
}

EchoScores echo_scores(const Rows& attention, std::int64_t first_query, const Repetition& repetition) {
  EchoScores out;
  for (Eigen::Index row = 0; row < attention.rows(); ++row) {
    const std::int64_t i = first_query + row;
    for (std::int64_t j = i - repetition.period; j >= repetition.first; j -= repetition.period) {
      out.echo += static_cast<double>(attention(row, j));
      out.induction += static_cast<double>(attention(row, j + 1));
    }
  }
  return out;
}

namespace {

struct Heads {
  std::vector<double> echo, induction;  // [L · Hk]
};

Heads heads_of(const std::vector<FitSequence>& sequences, const ModelCard& card) {
  const auto count = static_cast<std::size_t>(card.layers * card.kv_heads);
  Heads out{std::vector<double>(count), std::vector<double>(count)};
  for (const FitSequence& sequence : sequences) {
    const Repetition repetition = find_repetition(sequence.run->tokens(sequence.id));
    if (repetition.period == 0)
      throw Error(Category::usage, {.doing = "fitting",
                                    .on = "razor",
                                    .found = fmt::format("sequence {} of {} that does not repeat itself", sequence.id,
                                                         sequence.run->hash()),
                                    .expected = "recordings of random tokens, the same ones several times over",
                                    .next = "kvgrind record --tokens with such a list"});
    parallel_for(card.layers * card.kv_heads, [&](std::int64_t at) {
      const std::int64_t l = at / card.kv_heads, g = at % card.kv_heads;
      const Rows k = sequence.keys(l, g);
      EchoScores best;
      constexpr std::int64_t block = 256;
      for (std::int64_t h = g * card.group(); h < (g + 1) * card.group(); ++h) {
        EchoScores sum;
        for (std::int64_t first = 0; first < sequence.tokens; first += block) {
          const std::int64_t n = std::min(block, sequence.tokens - first);
          const EchoScores part =
              echo_scores(causal_attention(card, l, sequence.queries(l, h, first, n), first, k), first, repetition);
          sum.echo += part.echo;
          sum.induction += part.induction;
        }
        best.echo = std::max(best.echo, sum.echo);
        best.induction = std::max(best.induction, sum.induction);
      }
      const double scale = 1 / static_cast<double>(sequence.tokens * static_cast<std::int64_t>(sequences.size()));
      out.echo[static_cast<std::size_t>(at)] += best.echo * scale;
      out.induction[static_cast<std::size_t>(at)] += best.induction * scale;
    });
  }
  return out;
}

}  // namespace

void fit_echo_heads(const FitSplit& split, Calibration& out) {
  const Heads fitted = heads_of(split.fitted, split.card), held = heads_of(split.held_out, split.card);
  const auto store = [&](const char* name, const std::vector<double>& values) {
    out.tensors[name] = {{split.card.layers, split.card.kv_heads}, {values.begin(), values.end()}};
  };
  store("echo", fitted.echo);
  store("induction", fitted.induction);
  out.numbers["fitted_error"] = 0;
  out.numbers["held_out_error"] = 1 - pearson(fitted.induction, held.induction);
}

}  // namespace kvgrind::replay
