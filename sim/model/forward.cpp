#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <numeric>

#include "core/error.h"
#include "kernels/norm/norm.h"
#include "sim/model/chunks.h"
#include "sim/model/cuda_runtime.h"
#include "sim/model/pass.h"
#include "sim/model/runtime.h"

namespace kvgrind::sim {
namespace {

void check_feeds(const ModelCard& card, std::span<const Feed> feeds) {
  for (std::size_t f = 0; f < feeds.size(); ++f) {
    const Feed& feed = feeds[f];
    assert(feed.cache && feed.first >= 0);
    for (std::size_t other = 0; other < f; ++other) assert(feeds[other].cache != feed.cache);
    for (std::size_t i = 0; i < feed.ids.size(); ++i)
      if (feed.ids[i] < 0 || feed.ids[i] >= card.vocab)
        throw Error(Category::usage, {.doing = "running model",
                                      .on = fmt::format("{}, sequence {}", card.name, feed.sequence),
                                      .found = fmt::format("token id {} at position {}", feed.ids[i],
                                                           feed.first + static_cast<std::int64_t>(i)),
                                      .expected = fmt::format("ids from 0 to {}", card.vocab - 1)});
    for (const std::int64_t row : feed.logits_of) {
      (void)row;
      assert(row >= 0 && row < static_cast<std::int64_t>(feed.ids.size()));
    }
  }
}

void embed(Pass& pass) {
  const Tensor& table = pass.model.embedding;
  const std::int64_t hidden = table.shape[1], row_bytes = hidden * size_bytes(table.dtype);
  for (std::size_t f = 0; f < pass.feeds.size(); ++f)
    for (std::int64_t i = 0; i < pass.rows(f); ++i)
      to_f32(table.dtype, table.data + pass.feeds[f].ids[static_cast<std::size_t>(i)] * row_bytes, hidden,
             pass.x.slice(pass.row[f] + i, 1).data());
}

// Rows of a feed that need logits: those asked for, or all when its tap wants all.
std::vector<std::int64_t> logit_rows(const Feed& feed) {
  if (!feed.tap || !feed.tap->wants_all_logits()) return feed.logits_of;
  std::vector<std::int64_t> rows(feed.ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

// Final norm and head over the rows of all feeds that need logits, in one product; ends the taps' passes.
std::vector<Array<float, 2>> finish(Pass& pass) {
  const ModelCard& card = pass.model.config.card;
  for (std::int64_t i = 0; i < pass.x.size(); ++i) pass.x.data()[i] += pass.delta.data()[i];
  const View<float, 2> rows = pass.last_wanted_only ? pass.x : wanted_rows(pass, pass.x, pass.work.last_x);
  const View<float, 2> logits = pass.work.logits.shape(rows.extent(0), card.vocab);
  if (rows.extent(0) > 0) {
    kernels::rms_norm(rows, pass.model.final_norm, pass.model.config.rms_eps, rows);
    kernels::linear(pass.model.head, rows, logits);
  }

  std::vector<Array<float, 2>> out;
  std::int64_t at = 0;
  for (std::size_t f = 0; f < pass.feeds.size(); ++f) {
    const Feed& feed = pass.feeds[f];
    const auto count = static_cast<std::int64_t>(pass.wanted[f].size());
    const View<float, 2> own = logits.slice(at, count);
    at += count;
    const bool all = feed.tap && feed.tap->wants_all_logits();
    const auto asked = static_cast<std::int64_t>(feed.logits_of.size());
    Array<float, 2>& result = out.emplace_back(Array<float, 2>::Extents{asked, card.vocab});
    for (std::int64_t i = 0; i < asked; ++i) {
      const std::int64_t row = all ? feed.logits_of[static_cast<std::size_t>(i)] : i;
      std::copy_n(own.data() + row * card.vocab, card.vocab, result.data() + i * card.vocab);
    }
    if (feed.tap)
      feed.tap->end(
          {.final_residual = pass.last_wanted_only ? View<const float, 2>{} : pass.x.slice(pass.row[f], pass.rows(f)),
           .logits = own,
           .logit_rows = pass.wanted[f]});
  }
  return out;
}

// Frequencies of a run. Only dynamic and longrope sets depend on the announced length.
std::vector<RopeSet> rope_sets(const ModelConfig& config, std::int64_t announced) {
  return announced > 0 ? resolve_rope(config, announced) : config.card.rope;
}

std::vector<Array<float, 2>> run(const Model& model, std::span<const Feed> feeds, std::span<const RopeSet> rope,
                                 Workspace& work) {
  const ModelCard& card = model.config.card;
  check_feeds(card, feeds);
  Pass pass{.model = model, .feeds = feeds, .rope = rope, .work = work, .row = {0}, .position = {}, .wanted = {}};
  for (const Feed& feed : feeds) {
    const auto n = static_cast<std::int64_t>(feed.ids.size());
    pass.row.push_back(pass.row.back() + n);
    for (std::int64_t i = 0; i < n; ++i) pass.position.push_back(feed.first + i);
    pass.wanted.push_back(logit_rows(feed));
  }
  pass.x = work.x.shape(pass.rows(), card.hidden);
  pass.normed = work.normed.shape(pass.rows(), card.hidden);
  pass.delta = work.delta.shape(pass.rows(), card.hidden);
  for (const Feed& feed : feeds)
    if (feed.tap)
      feed.tap->begin({.sequence = feed.sequence, .first = feed.first, .ids = feed.ids, .decode = feed.decode});
  embed(pass);
  for (std::int64_t l = 0; l < card.layers; ++l) {
    ask_taps(pass, l);
    run_layer(pass, l);
  }
  return finish(pass);
}

}  // namespace

void ask_taps(Pass& pass, std::int64_t layer) {
  pass.needs_q_pre = pass.needs_lse = false;
  for (const Feed& feed : pass.feeds) {
    if (!feed.tap) continue;
    const TapNeeds needs = feed.tap->needs(layer);
    const std::int64_t end = feed.first + static_cast<std::int64_t>(feed.ids.size());
    pass.needs_q_pre |= needs.q_pre < end;
    pass.needs_lse |= needs.lse < end;
    if (layer + 1 == pass.model.config.card.layers && std::min({needs.lse, needs.attn_out, needs.output}) < end)
      pass.last_wanted_only = false;
  }
}

View<float, 2> wanted_rows(const Pass& pass, View<const float, 2> from, Buffer& to) {
  std::int64_t count = 0;
  for (const auto& rows : pass.wanted) count += static_cast<std::int64_t>(rows.size());
  const View<float, 2> out = to.shape(count, from.extent(1));
  std::int64_t at = 0;
  for (std::size_t f = 0; f < pass.feeds.size(); ++f)
    for (const std::int64_t row : pass.wanted[f])
      std::copy_n(from.slice(pass.row[f] + row, 1).data(), from.extent(1), out.slice(at++, 1).data());
  return out;
}

std::vector<Array<float, 2>> forward(const Model& model, std::span<const Feed> feeds, const RunOptions& options) {
  if (model.device) return forward(*model.device, feeds, options);
  Workspace work;
  return run(model, feeds, rope_sets(model.config, options.announced_length), work);
}

Array<float, 2> prefill(const Model& model, const Feed& feed, std::int64_t chunk, const RunOptions& options) {
  if (model.device) return prefill(*model.device, feed, chunk, options);
  const std::vector<RopeSet> rope = rope_sets(model.config, options.announced_length);
  Workspace work;
  return run_in_chunks(feed, chunk, model.config.card.vocab, [&](const Feed& part) {
    return std::move(run(model, {&part, 1}, rope, work)[0]);
  });
}

}  // namespace kvgrind::sim
