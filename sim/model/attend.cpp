// Attention of all feeds in one layer: gathers what each cache head shows, then runs (feed, head, rows) in parallel.
#include <algorithm>
#include <cassert>

#include "kernels/attention/attention.h"
#include "sim/model/pass.h"

namespace kvgrind::sim {
namespace {

// Rows of a task. Cuts lie at absolute multiples, so that no block of 64 queries is ever split.
constexpr std::int64_t task_rows = 4 * kernels::attention_block;

// Shrinks a task to the stretch from its first to its last wanted row.
void trim(AttentionTask& task, const std::vector<std::int64_t>& wanted) {
  std::int64_t first = task.end, last = task.begin - 1;
  for (const std::int64_t row : wanted)
    if (row >= task.begin && row < task.end) {
      first = std::min(first, row);
      last = std::max(last, row);
    }
  task.begin = first;
  task.end = last + 1;
}

void list_tasks(Pass& pass, std::int64_t layer) {
  const ModelCard& card = pass.model.config.card;
  pass.work.tasks.clear();
  for (std::size_t f = 0; f < pass.feeds.size(); ++f) {
    const Feed& feed = pass.feeds[f];
    const std::int64_t n = pass.rows(f);
    // A tap sees the blocks of a head in order, so the head stays in one task.
    const bool whole = feed.tap && feed.tap->wants_probabilities(layer);
    // The heads of a decode step that read one cache head go together: side by side they cost little more than one.
    const bool together = n == 1 && card.sinks.empty() && feed.cache->heads() == card.kv_heads;
    const std::int64_t heads = together ? card.group() : 1;
    for (std::int64_t h = 0; h < card.query_heads; h += heads)
      for (std::int64_t begin = 0; begin < n;) {
        const std::int64_t cut = ((feed.first + begin) / task_rows + 1) * task_rows - feed.first;
        const std::int64_t end = whole ? n : std::min(n, cut);
        AttentionTask task{static_cast<std::int64_t>(f), h, heads, begin, end};
        begin = end;
        if (pass.only_wanted(layer) && !whole) trim(task, pass.wanted[f]);
        if (task.begin < task.end) pass.work.tasks.push_back(task);
      }
  }
}

}  // namespace

void attend(Pass& pass, std::int64_t layer, View<const float, 3> q, View<float, 2> out, View<float, 2> lse) {
  const ModelCard& card = pass.model.config.card;
  const std::int64_t dim = card.head_dim;

  // What each cache head shows; [feed][cache head], found again by `shown`.
  std::vector<GroupView>& groups = pass.work.groups;
  groups.clear();
  std::vector<std::size_t> shown(pass.feeds.size());
  for (std::size_t f = 0; f < pass.feeds.size(); ++f) {
    const KvCache& cache = *pass.feeds[f].cache;
    assert(cache.heads() == card.kv_heads || cache.heads() == card.query_heads);
    shown[f] = groups.size();
    for (std::int64_t h = 0; h < cache.heads(); ++h) groups.push_back(cache.read(layer, h));
  }

  list_tasks(pass, layer);
  parallel_for(static_cast<std::int64_t>(pass.work.tasks.size()), [&](std::int64_t i) {
    const AttentionTask& task = pass.work.tasks[static_cast<std::size_t>(i)];
    const auto f = static_cast<std::size_t>(task.feed);
    const Feed& feed = pass.feeds[f];
    const std::int64_t first = pass.row[f] + task.begin, n = task.end - task.begin;
    const std::int64_t cache_head = task.head * feed.cache->heads() / card.query_heads;
    const GroupView& group = groups[shown[f] + static_cast<std::size_t>(cache_head)];
    const bool step = task.heads > 1;
    kernels::AttentionParams params;
    params.q = {q.data() + first * q.stride(0) + task.head * q.stride(1),
                {step ? task.heads : n, dim},
                {step ? q.stride(1) : q.stride(0), q.stride(2)}};
    params.q_position = std::span(pass.position).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n));
    const std::vector<std::int64_t> repeated(step ? static_cast<std::size_t>(task.heads) : 0, params.q_position[0]);
    if (step) params.q_position = repeated;
    params.k = group.k;
    params.v = group.v;
    params.k_position = group.position;
    params.log_count = group.log_count;
    params.scale = card.scale;
    params.softcap = card.softcap;
    params.window = card.layer[static_cast<std::size_t>(layer)].window;
    if (!card.sinks.empty()) params.sink = &card.sinks[static_cast<std::size_t>(layer * card.query_heads + task.head)];
    const View<float, 2> own = out.slice(first, n);
    params.out = columns(own, task.head * dim, dim);
    if (step) params.out = View<float, 2>(params.out.data(), {task.heads, dim});
    std::vector<float> step_lse(repeated.size());
    if (lse.data()) params.lse = step ? step_lse.data() : lse.data() + task.head * lse.stride(0) + first;
    if (feed.tap && feed.tap->wants_probabilities(layer))
      params.probabilities = [&](std::int64_t row, View<const float, 2> p) {
        for (std::int64_t h = 0; h < task.heads; ++h)
          feed.tap->probabilities({.layer = layer,
                                   .head = task.head + h,
                                   .first = feed.first + task.begin + (step ? 0 : row),
                                   .p = step ? p.slice(h, 1) : p,
                                   .key_position = group.position});
      };
    kernels::attention(params);
    if (lse.data())
      for (std::size_t h = 0; h < step_lse.size(); ++h)
        lse(task.head + static_cast<std::int64_t>(h), first) = step_lse[h];
  });
}

}  // namespace kvgrind::sim
