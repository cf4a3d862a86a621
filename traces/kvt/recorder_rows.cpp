// Rows of tokens on their way into the file: copied into chunks, hashed, given to the thread that writes, committed.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/parallel.h"
#include "traces/kvt/recorder_state.h"

namespace kvgrind::traces {

float row_norm(View<const float, 2> x, std::int64_t row) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < x.extent(1); ++i) sum += static_cast<double>(x(row, i)) * static_cast<double>(x(row, i));
  return static_cast<float>(std::sqrt(sum));
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
  const TapRows none;
  const bool plain = plan.card.dtype == (tap.rows_k.data ? tap.rows_k.dtype : DType::f32);
  struct Piece {
    GroupBuffer* to;
    std::int64_t head, at, rows, column;  // rows: of the whole slice, column: of its checksum
    const View<const float, 3>* view;
    const TapRows* own;
    std::span<const std::int64_t> from;
  };
  std::vector<Piece> pieces;
  std::vector<std::int64_t> from;
  for (Range& range : ranges) {
    const std::int64_t a = std::max(range.first, pass_row), b = std::min(range.end, pass_row + pass_rows);
    if (a >= b) continue;
    from.resize(static_cast<std::size_t>(b - a));
    std::iota(from.begin(), from.end(), a - pass_row);
    pieces.clear();
    const std::int64_t at = a - range.first, n = range.end - range.first;
    for (std::int64_t h = 0; h < plan.card.kv_heads; ++h) {
      pieces.push_back({&k, h, at, n, columns.k(tap.layer, h), &tap.k, &tap.rows_k, from});
      pieces.push_back({&v, h, at, n, columns.v(tap.layer, h), &tap.v, &tap.rows_v, from});
    }
    pieces.push_back({&lse, 0, at, n, columns.lse(tap.layer), &lse_rows, &none, from});
    const std::int64_t queries = range.query_end - range.query_first;
    if (content.queries && queries > 0) {
      const std::int64_t qa = std::max(range.query_first, pass_query_row);
      const auto begin = chosen.begin() + (qa - pass_query_row),
                 end = chosen.begin() + (range.query_end - pass_query_row);
      for (std::int64_t h = 0; h < plan.card.query_heads; ++h)
        pieces.push_back({&q, h, qa - range.query_first, queries, columns.q(tap.layer, h), &tap.q, &tap.rows_q,
                          begin < end ? std::span(begin, end) : std::span<const std::int64_t>()});
    }
    // Copied and hashed head by head, while the rows are in the processor's caches.
    const bool whole = range.end % C == 0;
    const auto one = [&](std::int64_t i) {
      const Piece& piece = pieces[static_cast<std::size_t>(i)];
      if (piece.own->data)
        piece.to->put(tap.layer, piece.head, piece.at, *piece.own, piece.from);
      else if (!piece.from.empty())
        piece.to->put(tap.layer, piece.head, piece.at, *piece.view, piece.from);
      if (whole)
        range.sums[static_cast<std::size_t>(piece.column)] =
            hash_bytes(piece.to->rows(tap.layer, piece.head), piece.rows * piece.to->row_bytes());
    };
    // What is ready goes to the writing thread while the next is prepared. Plain copies are faster than that thread
    // writes, and another thread for them would only take its processor away; conversions are shared out.
    const std::int64_t size = static_cast<std::int64_t>(pieces.size());
    const std::int64_t group = !whole ? size : plain ? 1 : 2 * thread_count();
    for (std::int64_t at_piece = 0; at_piece < size; at_piece += group) {
      const std::int64_t count = std::min(group, size - at_piece);
      const auto next = [&](std::int64_t i) { one(at_piece + i); };
      if (!plain && b - a >= 16)
        parallel_for(count, next);
      else
        for (std::int64_t i = 0; i < count; ++i) next(i);
      if (whole)
        for (std::int64_t i = at_piece; i < at_piece + count; ++i) {
          const Piece& piece = pieces[static_cast<std::size_t>(i)];
          give_slice(range, *piece.to, tap.layer, piece.head);
        }
    }
    if (whole) {
      if (content.queries && queries == 0)
        for (std::int64_t h = 0; h < plan.card.query_heads; ++h)
          range.sums[static_cast<std::size_t>(columns.q(tap.layer, h))] = hash_bytes(nullptr, 0);
      ++range.layers_written;
    }
  }
  for (std::int64_t i = 0; i < pass_rows; ++i) {
    const std::int64_t at = pass_row + i - committed;
    if (tap.input.extent(0) == pass_rows) row_buffer(Small::hidden_norm).set(at, tap.layer, row_norm(tap.input, i));
    if (tap.attn_in.extent(0) == pass_rows)
      row_buffer(Small::attn_in_norm).set(at, tap.layer, row_norm(tap.attn_in, i));
  }
  OpenSequence& one = opened(pass_sequence);
  if (one.moments && tap.q_pre.extent(0) == pass_rows) one.moments->add(tap.layer, pass_first, tap.q_pre);
}

// Checksums of a layer's rows that were not all shown in one pass, or end before their chunk does.
void Recorder::State::hash_layer(Range& range, std::int64_t l) {
  const std::int64_t n = range.end - range.first, queries = range.query_end - range.query_first;
  const auto sum = [&](const GroupBuffer& buffer, std::int64_t head, std::int64_t count, std::int64_t column) {
    range.sums[static_cast<std::size_t>(column)] = hash_bytes(buffer.rows(l, head), count * buffer.row_bytes());
  };
  for (std::int64_t h = 0; h < plan.card.kv_heads; ++h) {
    sum(k, h, n, columns.k(l, h));
    sum(v, h, n, columns.v(l, h));
  }
  if (content.queries)
    for (std::int64_t h = 0; h < plan.card.query_heads; ++h) sum(q, h, queries, columns.q(l, h));
  sum(lse, 0, n, columns.lse(l));
}

// One head's rows of a range go to the thread that writes.
void Recorder::State::give_slice(const Range& range, GroupBuffer& from, std::int64_t l, std::int64_t head) {
  const bool queries = &from == &q;
  const std::int64_t first = queries ? range.query_first : range.first,
                     n = queries ? range.query_end - range.query_first : range.end - range.first;
  const char* name = queries ? "q" : &from == &k ? "k" : &from == &v ? "v" : "lse";
  queue.give(n * from.row_bytes(), [this, name, l, head, first, n, block = from.take(l, head)] {
    file->write_group(name, l, head, first, n, block.get());
  });
}

void Recorder::State::write_layer(Range& range, std::int64_t l) {
  for (std::int64_t h = 0; h < plan.card.kv_heads; ++h) {
    give_slice(range, k, l, h);
    give_slice(range, v, l, h);
  }
  if (content.queries)
    for (std::int64_t h = 0; h < plan.card.query_heads; ++h) give_slice(range, q, l, h);
  give_slice(range, lse, l, 0);
  ++range.layers_written;
}

void Recorder::State::commit_range(Range& range) {
  if (range.layers_written == 0)
    for (std::int64_t l = 0; l < plan.card.layers; ++l) {
      hash_layer(range, l);
      write_layer(range, l);
    }
  const std::int64_t n = range.end - range.first, queries = range.query_end - range.query_first;
  std::int64_t bytes = 0;
  if (content.text) {
    std::int64_t end = 0;
    std::memcpy(&end, row_buffer(Small::text_end).data() + (n - 1) * 8, 8);
    bytes = end - committed_text;
  }
  struct Rows {
    const char* name;
    std::int64_t rows;
    std::vector<std::byte> bytes;
  };
  std::vector<Rows> tables;
  std::int64_t held = 0;
  for (int i = 0; i < small_count; ++i) {
    const Small which = static_cast<Small>(i);
    if (!has_small(content, which)) continue;
    const std::int64_t count = which == Small::q_row ? queries : which == Small::text ? bytes : n;
    RowBuffer& buffer = row_buffer(which);
    const std::int64_t size = count * buffer.row_bytes();
    range.sums[static_cast<std::size_t>(columns.small(which))] = hash_bytes(buffer.data(), size);
    tables.push_back({small_name(which), count, {buffer.data(), buffer.data() + size}});
    held += size;
    buffer.drop_front(count);
  }
  Row row{};
  row[commit_column::first_row] = static_cast<std::uint64_t>(range.first);
  row[commit_column::rows] = static_cast<std::uint64_t>(n);
  row[commit_column::first_query] = static_cast<std::uint64_t>(range.query_first);
  row[commit_column::queries] = static_cast<std::uint64_t>(queries);
  row[commit_column::first_byte] = static_cast<std::uint64_t>(committed_text);
  row[commit_column::bytes] = static_cast<std::uint64_t>(bytes);
  row[commit_column::tok_sequence] = static_cast<std::uint64_t>(current);
  fold_token_sums(columns, range.sums, row);
  // Nothing of a later range is in the file: a segment may end.
  const bool rests = !in_pass && std::none_of(ranges.begin(), ranges.end(), [&](const Range& other) {
    return other.first != range.first && other.layers_written > 0;
  });
  queue.give(held, [this, row, rests, end = range.end, sums = std::move(range.sums), tables = std::move(tables)] {
    for (const Rows& table : tables) file->append(table.name, table.rows, table.bytes.data());
    file->append("tok_sums", 1, sums.data());
    file->commit(Stream::tok, row);
    landed = end;
    if (plan.on_commit) plan.on_commit(end);
    if (rests) file->rest();
  });
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
  if (rows - committed >= 64 || std::chrono::steady_clock::now() - last_commit >= std::chrono::seconds(1)) commit_all();
}

void Recorder::State::commit_all() {
  while (!ranges.empty()) {
    if (ranges.front().end > ranges.front().first) commit_range(ranges.front());
    ranges.pop_front();
  }
}

void Recorder::State::commit_tail() {
  commit_all();
  queue.drain();
}

}  // namespace kvgrind::traces
