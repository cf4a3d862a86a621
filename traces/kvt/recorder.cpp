// Taking what the tap shows: buffering, writing and committing rows of tokens.
#include "traces/kvt/recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/parallel.h"
#include "traces/kvt/next_token.h"
#include "traces/kvt/query_choice.h"
#include "traces/kvt/recorder_state.h"
#include "traces/kvt/recording_plan.h"

namespace kvgrind::traces {
// Stops cleanly while there is still room to do so.
void Recorder::State::reserve(std::int64_t bytes) {
  const std::int64_t needed = bytes + bytes / 2 + options.reserve_bytes, waiting = queue.waiting_bytes();
  if (file->output().free_bytes() >= needed + waiting + waiting / 2) return;
  queue.drain();
  const std::int64_t free = file->output().free_bytes();
  if (free >= needed) return;
  const std::string kept_free = fmt::format("{} bytes free", free);
  stop(StatusCode::truncated_disk_full);
  throw Error(Category::write, {.doing = "writing trace",
                                .on = file->output().part().string(),
                                .found = kept_free,
                                .expected = fmt::format("{} for the next tokens and the reserve", needed),
                                .usable = usable(),
                                .next = "free disk space and record again, or lower the reserve"});
}

void Recorder::State::begin(const TapPass& pass) {
  const std::int64_t n = static_cast<std::int64_t>(pass.ids.size());
  if (pass.sequence < 0 || pass.sequence >= static_cast<std::int64_t>(plan.sequences.size()) ||
      done[static_cast<std::size_t>(pass.sequence)] || in_pass)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("sequence {}", pass.sequence),
                                  .found = "a pass of it",
                                  .expected = "an announced sequence that is not done"});
  OpenSequence& one = opened(pass.sequence);
  if (pass.first != one.next_position)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("sequence {}", pass.sequence),
                                  .found = fmt::format("a pass at position {}", pass.first),
                                  .expected = fmt::format("position {}", one.next_position)});
  if (pass.sequence == current && pending_row >= 0 && n > 0) resolve_next(pass.ids[0]);
  if (pass.sequence != current) {
    if (pending_row >= 0) lost_nll = true, pending_row = -1;
    commit_tail();
  }
  commit_due();
  reserve(n * (plan.card.layers *
                   ((2 * plan.card.kv_heads + plan.card.query_heads) * k.row_bytes() + 4 * plan.card.query_heads + 8) +
               600));

  in_pass = true;
  decode = pass.decode;
  current = pass_sequence = pass.sequence;
  pass_first = pass.first;
  pass_row = rows;
  pass_rows = n;
  pass_query_row = query_rows;
  pass_ids.assign(pass.ids.begin(), pass.ids.end());
  next_layer = 0;
  chosen.clear();
  const QueryChoice choice(options, sequence(pass.sequence), pass.sequence);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = rows + i;
    if (ranges.empty() || ranges.back().end % C == 0 || ranges.back().end != row)
      ranges.push_back({.first = row,
                        .end = row,
                        .query_first = query_rows,
                        .query_end = query_rows,
                        .sums = std::vector<std::uint64_t>(static_cast<std::size_t>(columns.size())),
                        .layers_written = 0});
    ++ranges.back().end;
    if (content.queries && choice.keeps(pass.first + i, pass.decode) &&
        !std::binary_search(left_out.begin(), left_out.end(), i)) {
      chosen.push_back(i);
      row_buffer(Small::q_row).push(row);
      ++ranges.back().query_end;
      ++query_rows;
    }
    row_buffer(Small::tokens).push(pass.ids[static_cast<std::size_t>(i)]);
    row_buffer(Small::pos).push(pass.first + i);
    row_buffer(Small::seq).push(static_cast<std::int32_t>(pass.sequence));
    if (content.text) {
      const std::string text = plan.token_bytes(pass.ids[static_cast<std::size_t>(i)]);
      row_buffer(Small::text).push_bytes(text.data(), text.size());
      text_bytes += static_cast<std::int64_t>(text.size());
      row_buffer(Small::text_end).push(text_bytes);
    }
  }
  rows += n;
  left_out.clear();
  const std::int64_t waiting = rows - committed;
  const float unknown = std::numeric_limits<float>::quiet_NaN();
  for (const Small which : {Small::nll, Small::hidden_norm, Small::attn_in_norm})
    row_buffer(which).extend(waiting, unknown);
  if (content.logits_top64) {
    row_buffer(Small::top_id).extend(waiting, std::int32_t{-1});
    row_buffer(Small::top_logp).extend(waiting, unknown);
  }
  if (one.attention) one.attention->prepare(pass.first, n, pass.decode);
}

void Recorder::State::resolve_next(std::int32_t token) {
  if (token >= 0 && token < static_cast<std::int64_t>(pending_logits.size()))
    row_buffer(Small::nll)
        .set(
            pending_row - committed, 0,
            static_cast<float>(pending_log_sum - static_cast<double>(pending_logits[static_cast<std::size_t>(token)])));
  pending_row = -1;
}

void Recorder::State::next_tokens(const NextTokens& given) {
  if (!in_pass || !content.logits_top64) return;
  const std::int64_t offset = pass_row - committed;
  for (std::int64_t i = 0; i < pass_rows; ++i) {
    for (std::int64_t j = 0; j < top_tokens; ++j) {
      row_buffer(Small::top_id).set(offset + i, j, given.top_id[i * top_tokens + j]);
      row_buffer(Small::top_logp).set(offset + i, j, given.top_logp[i * top_tokens + j]);
    }
    row_buffer(Small::nll).set(offset + i, 0, given.nll[i]);
  }
  if (!given.last_later) return;
  pending_row = pass_row + pass_rows - 1;  // its chunk is not committed before the next token is known
  pending_logits.clear();
}

void Recorder::State::last_logits(std::span<const float> logits) {
  if (pending_row < 0) return;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(top_tokens));
  std::vector<float> log_p(ids.size());
  pending_logits.assign(logits.begin(), logits.end());
  pending_log_sum = top_log_probabilities(logits, ids.data(), log_p.data());
}

void Recorder::State::end(const TapEnd& tap) {
  if (!in_pass || next_layer != plan.card.layers)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = "the end of a pass",
                                  .found = fmt::format("{} layers", next_layer),
                                  .expected = fmt::format("{}", plan.card.layers)});
  const TokenSequence& announced = sequence(pass_sequence);
  const std::int64_t offset = pass_row - committed, L = plan.card.layers;
  if (tap.final_residual.extent(0) == pass_rows)
    for (std::int64_t i = 0; i < pass_rows; ++i)
      row_buffer(Small::hidden_norm).set(offset + i, L, row_norm(tap.final_residual, i));

  const std::int64_t given = static_cast<std::int64_t>(tap.logit_rows.size()), vocab = tap.logits.extent(1);
  std::vector<double> log_sum(static_cast<std::size_t>(given));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(given * top_tokens));
  std::vector<float> log_p(static_cast<std::size_t>(given * top_tokens));
  const auto logits_of = [&](std::int64_t r, std::vector<float>& copy) {
    if (tap.logits.stride(1) == 1) return std::span<const float>(&tap.logits(r, 0), static_cast<std::size_t>(vocab));
    copy.resize(static_cast<std::size_t>(vocab));
    for (std::int64_t j = 0; j < vocab; ++j) copy[static_cast<std::size_t>(j)] = tap.logits(r, j);
    return std::span<const float>(copy);
  };
  parallel_for(given, [&](std::int64_t r) {
    std::vector<float> copy;
    log_sum[static_cast<std::size_t>(r)] =
        top_log_probabilities(logits_of(r, copy), ids.data() + r * top_tokens, log_p.data() + r * top_tokens);
  });
  for (std::int64_t r = 0; r < given; ++r) {
    const std::int64_t i = tap.logit_rows[static_cast<std::size_t>(r)];
    if (i < 0 || i >= pass_rows) continue;
    if (content.logits_top64)
      for (std::int64_t j = 0; j < top_tokens; ++j) {
        row_buffer(Small::top_id).set(offset + i, j, ids[static_cast<std::size_t>(r * top_tokens + j)]);
        row_buffer(Small::top_logp).set(offset + i, j, log_p[static_cast<std::size_t>(r * top_tokens + j)]);
      }
    const std::int64_t next = pass_first + i + 1 - announced.fork_at;
    std::int32_t token = -1;
    if (i + 1 < pass_rows)
      token = pass_ids[static_cast<std::size_t>(i + 1)];
    else if (next < static_cast<std::int64_t>(announced.ids.size()))
      token = announced.ids[static_cast<std::size_t>(next)];
    std::vector<float> copy;
    const std::span<const float> logits = logits_of(r, copy);
    if (token >= 0 && token < vocab) {
      row_buffer(Small::nll)
          .set(offset + i, 0,
               static_cast<float>(log_sum[static_cast<std::size_t>(r)] -
                                  static_cast<double>(logits[static_cast<std::size_t>(token)])));
    } else if (token < 0) {
      pending_row = pass_row + i;
      pending_logits.assign(logits.begin(), logits.end());
      pending_log_sum = log_sum[static_cast<std::size_t>(r)];
    }
  }
  OpenSequence& one = opened(pass_sequence);
  one.next_position += pass_rows;
  one.rows += pass_rows;
  if (!one.extents.empty() && one.extents.back().first_row + one.extents.back().rows == pass_row)
    one.extents.back().rows += pass_rows;
  else if (pass_rows > 0)
    one.extents.push_back({pass_row, pass_rows, pass_first});
  in_pass = false;
  commit_due();
}

// A pass that broke off: its rows are forgotten, and a chunk that was being written with them waits uncommitted.
void Recorder::State::drop_pass() {
  if (!in_pass) return;
  in_pass = false;
  std::int64_t keep = pass_row, keep_queries = pass_query_row;
  while (!ranges.empty() && ranges.back().end > pass_row) {
    Range& last = ranges.back();
    if (last.first < pass_row && last.layers_written == 0) {
      last.end = pass_row;
      last.query_end = pass_query_row;
      break;
    }
    if (last.first < pass_row) keep = last.first, keep_queries = last.query_first;
    ranges.pop_back();
  }
  const std::int64_t waiting = keep - committed;
  for (int i = 0; i < small_count; ++i) {
    const Small which = static_cast<Small>(i);
    if (!has_small(content, which) || which == Small::q_row || which == Small::text) continue;
    row_buffer(which).keep_front(waiting);
  }
  if (content.queries)
    row_buffer(Small::q_row).keep_front(keep_queries - (ranges.empty() ? keep_queries : ranges.front().query_first));
  rows = keep;
  query_rows = keep_queries;
}

Recorder::Recorder(const std::filesystem::path& path, Plan plan, const RecordOptions& options)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.plan = std::move(plan);
  s.first_spare = static_cast<std::int64_t>(s.plan.sequences.size());
  s.plan.sequences.resize(static_cast<std::size_t>(s.first_spare + s.plan.spare_sequences));
  s.options = options;
  s.plan_path = path.string();
  FileStart start = plan_file(s.plan, options, s.not_recorded);
  const ModelCard& card = s.plan.card;
  s.content = start.layout.content;
  s.C = start.layout.chunk_rows;
  s.columns = sum_columns(card);
  s.done.resize(s.plan.sequences.size());
  s.file = std::make_unique<FileWriter>(path, options.force, options.fsync, std::move(start), options.segments,
                                        options.segment_bytes);
  s.k = GroupBuffer(card.dtype, card.layers, card.kv_heads, s.C, card.head_dim);
  s.v = GroupBuffer(card.dtype, card.layers, card.kv_heads, s.C, card.head_dim);
  if (s.content.queries) s.q = GroupBuffer(card.dtype, card.layers, card.query_heads, s.C, card.head_dim);
  s.lse = GroupBuffer(DType::f32, card.layers, 1, s.C, card.query_heads);
  for (int i = 0; i < small_count; ++i) {
    static constexpr std::int64_t element[small_count] = {4, 8, 4, 4, 4, 4, 4, 4, 1, 8, 8};
    const Small which = static_cast<Small>(i);
    const std::int64_t width = which == Small::hidden_norm                          ? card.layers + 1
                               : which == Small::attn_in_norm                       ? card.layers
                               : which == Small::top_id || which == Small::top_logp ? top_tokens
                                                                                    : 1;
    s.small[static_cast<std::size_t>(i)] = RowBuffer(element[i] * width);
  }
}

Recorder::~Recorder() = default;

bool Recorder::wants_probabilities(std::int64_t) const {
  return state_->content.column_sums || state_->content.pooled_maps;
}
bool Recorder::wants_all_logits() const { return state_->content.logits_top64; }

void Recorder::begin(const TapPass& pass) {
  state_->guarded([&] { state_->begin(pass); }, State::Begins::at_once);
}
void Recorder::probabilities(const TapProbabilities& block) {
  if (state_->ended) return;
  const auto it = state_->open.find(state_->pass_sequence);
  if (it != state_->open.end() && it->second.attention) it->second.attention->add(block);
}
void Recorder::layer(const TapLayer& layer) {
  state_->guarded([&] { state_->layer(layer); }, State::Begins::at_once);
}
void Recorder::end(const TapEnd& end) {
  state_->guarded([&] { state_->end(end); }, State::Begins::at_once);
}
void Recorder::column_sums(std::int64_t sequence, std::int64_t layer, std::int64_t segment, View<const float, 2> sums) {
  const auto it = state_->open.find(sequence);
  if (state_->content.column_sums && it != state_->open.end() && it->second.attention)
    it->second.attention->set_column_sums(layer, segment, sums);
}
void Recorder::pooled_map(std::int64_t sequence, std::int64_t layer, View<const float, 2> max,
                          View<const float, 2> sum) {
  const auto it = state_->open.find(sequence);
  if (it != state_->open.end() && it->second.attention) it->second.attention->set_map(layer, max, sum);
}
void Recorder::query_moments(std::int64_t sequence, std::int64_t layer, std::int64_t segment, std::int64_t n,
                             const double* mean, const double* modulus, const double* second) {
  const auto it = state_->open.find(sequence);
  if (it == state_->open.end() || !it->second.moments) return;
  QueryMoments& moments = *it->second.moments;
  moments.set(segment < 0 ? moments.segments() - 1 : segment, layer, n, mean, modulus, second);
}
void Recorder::next_tokens(const NextTokens& rows) {
  state_->guarded([&] { state_->next_tokens(rows); });
}
void Recorder::last_logits(std::span<const float> logits) {
  if (!state_->ended) state_->last_logits(logits);
}
void Recorder::describe(std::int64_t sequence, TokenSequence known) {
  state_->guarded([&] { state_->describe(sequence, std::move(known)); });
}
void Recorder::leave_out_queries(std::vector<std::int64_t> rows) { state_->left_out = std::move(rows); }
void Recorder::remark(std::string line) { state_->not_recorded.push_back(std::move(line)); }
void Recorder::sequence_done(std::int64_t sequence, std::int32_t next_token) {
  state_->guarded([&] { state_->sequence_done(sequence, next_token); });
}
void Recorder::close() {
  state_->guarded([&] { state_->finish(); });
}
void Recorder::interrupt() {
  if (state_->ended) return;
  state_->guarded([&] {
    if (std::all_of(state_->done.begin(), state_->done.end(), [](bool b) { return b; }) && !state_->in_pass)
      state_->finish();
    else
      state_->stop(StatusCode::interrupted);
  });
}
void Recorder::settle() {
  state_->guarded([] {});
}
std::int64_t Recorder::committed_rows() const { return state_->landed; }

}  // namespace kvgrind::traces
