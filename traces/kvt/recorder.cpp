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
namespace {

float norm(View<const float, 2> x, std::int64_t row) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < x.extent(1); ++i) sum += static_cast<double>(x(row, i)) * static_cast<double>(x(row, i));
  return static_cast<float>(std::sqrt(sum));
}

}  // namespace

// Stops cleanly while there is still room to do so.
void Recorder::State::reserve(std::int64_t bytes) {
  const std::int64_t needed = bytes + bytes / 2 + options.reserve_bytes, free = file->output().free_bytes();
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

void Recorder::State::layer(const TapLayer& tap) {
  if (!in_pass || tap.layer != next_layer || tap.lse.extent(0) != pass_rows)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("layer {}", tap.layer),
                                  .found = fmt::format("{} rows", tap.lse.extent(0)),
                                  .expected = fmt::format("layer {} with {} rows", next_layer, pass_rows)});
  ++next_layer;
  const View<const float, 3> lse_rows(tap.lse.data(), {tap.lse.extent(0), 1, tap.lse.extent(1)},
                                      {tap.lse.stride(0), tap.lse.stride(0), tap.lse.stride(1)});
  const auto put = [&tap](GroupBuffer& to, std::int64_t at, View<const float, 3> view, const TapRows& own,
                          std::span<const std::int64_t> which) {
    if (own.data)
      to.put(tap.layer, at, own, which);
    else
      to.put(tap.layer, at, view, which);
  };
  std::vector<std::int64_t> from;
  for (Range& range : ranges) {
    const std::int64_t a = std::max(range.first, pass_row), b = std::min(range.end, pass_row + pass_rows);
    if (a >= b) continue;
    from.resize(static_cast<std::size_t>(b - a));
    std::iota(from.begin(), from.end(), a - pass_row);
    put(k, a - range.first, tap.k, tap.rows_k, from);
    put(v, a - range.first, tap.v, tap.rows_v, from);
    lse.put(tap.layer, a - range.first, lse_rows, from);
    if (content.queries) {
      const std::int64_t qa = std::max(range.query_first, pass_query_row);
      const auto begin = chosen.begin() + (qa - pass_query_row),
                 end = chosen.begin() + (range.query_end - pass_query_row);
      if (begin < end) put(q, qa - range.query_first, tap.q, tap.rows_q, std::span(begin, end));
    }
    if (range.end % C == 0) write_layer(range, tap.layer);
  }
  for (std::int64_t i = 0; i < pass_rows; ++i) {
    const std::int64_t at = pass_row + i - committed;
    if (tap.input.extent(0) == pass_rows) row_buffer(Small::hidden_norm).set(at, tap.layer, norm(tap.input, i));
    if (tap.attn_in.extent(0) == pass_rows) row_buffer(Small::attn_in_norm).set(at, tap.layer, norm(tap.attn_in, i));
  }
  OpenSequence& one = opened(pass_sequence);
  if (one.moments && tap.q_pre.extent(0) == pass_rows) one.moments->add(tap.layer, pass_first, tap.q_pre);
}

void Recorder::State::write_layer(Range& range, std::int64_t l) {
  const std::int64_t n = range.end - range.first, queries = range.query_end - range.query_first;
  struct Slice {
    const char* name;
    const GroupBuffer* buffer;
    std::int64_t head, first, count, column;
  };
  std::vector<Slice> slices;
  for (std::int64_t h = 0; h < plan.card.kv_heads; ++h) {
    slices.push_back({"k", &k, h, range.first, n, columns.k(l, h)});
    slices.push_back({"v", &v, h, range.first, n, columns.v(l, h)});
  }
  if (content.queries)
    for (std::int64_t h = 0; h < plan.card.query_heads; ++h)
      slices.push_back({"q", &q, h, range.query_first, queries, columns.q(l, h)});
  slices.push_back({"lse", &lse, 0, range.first, n, columns.lse(l)});
  const auto sum = [&](std::int64_t i) {
    const Slice& slice = slices[static_cast<std::size_t>(i)];
    range.sums[static_cast<std::size_t>(slice.column)] =
        hash_bytes(slice.buffer->rows(l, slice.head), slice.count * slice.buffer->row_bytes());
  };
  const std::int64_t size = static_cast<std::int64_t>(slices.size());
  if (n * k.row_bytes() >= (64 << 10))
    parallel_for(size, sum);
  else
    for (std::int64_t i = 0; i < size; ++i) sum(i);
  for (const Slice& slice : slices)
    file->write_group(slice.name, l, slice.head, slice.first, slice.count, slice.buffer->rows(l, slice.head));
  ++range.layers_written;
}

void Recorder::State::commit_range(Range& range) {
  if (range.layers_written == 0)
    for (std::int64_t l = 0; l < plan.card.layers; ++l) write_layer(range, l);
  const std::int64_t n = range.end - range.first, queries = range.query_end - range.query_first;
  std::int64_t bytes = 0;
  if (content.text) {
    std::int64_t end = 0;
    std::memcpy(&end, row_buffer(Small::text_end).data() + (n - 1) * 8, 8);
    bytes = end - committed_text;
  }
  for (int i = 0; i < small_count; ++i) {
    const Small which = static_cast<Small>(i);
    if (!has_small(content, which)) continue;
    const std::int64_t count = which == Small::q_row ? queries : which == Small::text ? bytes : n;
    RowBuffer& buffer = row_buffer(which);
    file->append(small_name(which), count, buffer.data());
    range.sums[static_cast<std::size_t>(columns.small(which))] = hash_bytes(buffer.data(), count * buffer.row_bytes());
    buffer.drop_front(count);
  }
  file->append("tok_sums", 1, range.sums.data());
  Row row{};
  row[commit_column::first_row] = static_cast<std::uint64_t>(range.first);
  row[commit_column::rows] = static_cast<std::uint64_t>(n);
  row[commit_column::first_query] = static_cast<std::uint64_t>(range.query_first);
  row[commit_column::queries] = static_cast<std::uint64_t>(queries);
  row[commit_column::first_byte] = static_cast<std::uint64_t>(committed_text);
  row[commit_column::bytes] = static_cast<std::uint64_t>(bytes);
  row[commit_column::tok_sequence] = static_cast<std::uint64_t>(current);
  fold_token_sums(columns, range.sums, row);
  file->commit(Stream::tok, row);
  committed = range.end;
  committed_text += bytes;
  last_commit = std::chrono::steady_clock::now();
}

void Recorder::State::commit_due() {
  while (!ranges.empty() && ranges.front().end % C == 0 && ranges.front().end > ranges.front().first &&
         (pending_row < 0 || pending_row >= ranges.front().end)) {
    commit_range(ranges.front());
    ranges.pop_front();
  }
  if (!decode || ranges.empty() || pending_row >= 0) return;
  if (rows - committed >= 64 || std::chrono::steady_clock::now() - last_commit >= std::chrono::seconds(1))
    commit_tail();
}

void Recorder::State::commit_tail() {
  while (!ranges.empty()) {
    if (ranges.front().end > ranges.front().first) commit_range(ranges.front());
    ranges.pop_front();
  }
}

void Recorder::State::resolve_next(std::int32_t token) {
  if (token >= 0 && token < static_cast<std::int64_t>(pending_logits.size()))
    row_buffer(Small::nll)
        .set(
            pending_row - committed, 0,
            static_cast<float>(pending_log_sum - static_cast<double>(pending_logits[static_cast<std::size_t>(token)])));
  pending_row = -1;
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
      row_buffer(Small::hidden_norm).set(offset + i, L, norm(tap.final_residual, i));

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
  s.file = std::make_unique<FileWriter>(path, options.force, options.fsync, std::move(start));
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
  state_->guarded([&] { state_->begin(pass); });
}
void Recorder::probabilities(const TapProbabilities& block) {
  if (state_->ended) return;
  const auto it = state_->open.find(state_->pass_sequence);
  if (it != state_->open.end() && it->second.attention) it->second.attention->add(block);
}
void Recorder::layer(const TapLayer& layer) {
  state_->guarded([&] { state_->layer(layer); });
}
void Recorder::end(const TapEnd& end) {
  state_->guarded([&] { state_->end(end); });
}
void Recorder::column_sums(std::int64_t sequence, std::int64_t layer, std::int64_t segment, View<const float, 2> sums) {
  const auto it = state_->open.find(sequence);
  if (state_->content.column_sums && it != state_->open.end() && it->second.attention)
    it->second.attention->set_column_sums(layer, segment, sums);
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
std::int64_t Recorder::committed_rows() const { return state_->committed; }

}  // namespace kvgrind::traces
