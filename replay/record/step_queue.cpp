#include "replay/record/step_queue.h"

#include <algorithm>
#include <numeric>

namespace kvgrind::replay {

StepQueue::StepQueue(StepSource& source, kernels::CaptureSpool& spool, Pressure& pressure, BlockReader& reader,
                     traces::Recorder& recorder, const ModelCard& card, bool queries, bool logits)
    : source_(source),
      spool_(spool),
      pressure_(pressure),
      reader_(reader),
      recorder_(recorder),
      card_(card),
      queries_(queries),
      wants_logits_(logits) {}

std::int64_t StepQueue::step(const TapPass& pass) {
  if (static_cast<std::int64_t>(ids_.size()) == half_rows) send(false);  // logits that never came
  const auto waiting = static_cast<std::int64_t>(owed_.size() + ids_.size());
  if (waiting > 0 && (pass.sequence != sequence_ || pass.first != owed_first_ + waiting)) flush();
  if (owed_.empty() && ids_.empty()) owed_first_ = pass.first;
  sequence_ = pass.sequence;
  if (ids_.empty()) {
    ring_row_ = (ring_row_ + half_rows - 1) / half_rows % 2 * half_rows;  // the half that follows
    source_.fill(static_cast<int>(ring_row_ / half_rows));
  }
  ids_.push_back(pass.ids[0]);
  return ring_row_++;
}

void StepQueue::queued() {
  if (static_cast<std::int64_t>(ids_.size()) == half_rows && !wants_logits_) send(false);
}

void StepQueue::logits(std::span<const float> row) {
  if (!wants_logits_) return;
  logits_.insert(logits_.end(), row.begin(), row.end());
  if (static_cast<std::int64_t>(ids_.size()) == half_rows) send(false);
}

void StepQueue::flush() { send(true); }

void StepQueue::send(bool all) {
  if (owed_.empty() && ids_.empty()) return;
  const auto rows = static_cast<std::int64_t>(ids_.size());
  const int half = static_cast<int>((ring_row_ - std::max<std::int64_t>(1, rows)) / half_rows);
  if (rows > 0) source_.leaving(ring_row_ - rows, owed_first_ + static_cast<std::int64_t>(owed_.size()), rows);
  source_.ready(half);
  // What is owed comes first, in pieces of a half: positions of a sequence are recorded in order.
  while (!owed_.empty()) {
    const auto piece = std::min<std::int64_t>(half_rows, static_cast<std::int64_t>(owed_.size()));
    if (!all && !spool_.has_room(bare_bytes(piece))) break;
    send_owed(piece);
  }
  if (rows == 0) return;
  const BlockShape whole(card_, card_.layers, rows, queries_ ? rows : 0, card_.layers + 1, logit_width());
  if (!owed_.empty() || pressure_.gives_up(spool_, whole.size_bytes)) {
    pressure_.dropped_steps(rows);
    owed_.insert(owed_.end(), ids_.begin(), ids_.end());
    ids_.clear();
    logits_.clear();
    if (all)
      while (!owed_.empty()) send_owed(std::min<std::int64_t>(half_rows, static_cast<std::int64_t>(owed_.size())));
  } else {
    send_half();
  }
  ring_row_ = static_cast<std::int64_t>(half + 1) * half_rows;
}

// The beginning of a pass, for the writer thread.
void StepQueue::begin_pass(std::int64_t first, std::vector<std::int32_t> ids, std::vector<std::int64_t> left_out) {
  spool_.reserve(0);
  spool_.submit([this, sequence = sequence_, first, ids = std::move(ids), left_out = std::move(left_out)] {
    recorder_.leave_out_queries(left_out);
    recorder_.begin({.sequence = sequence, .first = first, .ids = ids, .decode = true});
  });
}

void StepQueue::send_owed(std::int64_t rows) {
  const BlockShape shape(card_, card_.layers, rows, 0, 0);
  std::vector<std::int64_t> every(static_cast<std::size_t>(rows));
  std::iota(every.begin(), every.end(), 0);
  begin_pass(owed_first_, {owed_.begin(), owed_.begin() + rows}, std::move(every));
  std::byte* block = spool_.reserve(shape.size_bytes);
  source_.copy_cache(block + shape.k, block + shape.v, owed_first_, rows);
  spool_.submit([this, block, shape] { reader_.steps(block, shape, {}); });
  owed_.erase(owed_.begin(), owed_.begin() + rows);
  owed_first_ += rows;
}

void StepQueue::send_half() {
  const auto rows = static_cast<std::int64_t>(ids_.size());
  const std::int64_t first = owed_first_, row = ring_row_ - rows, every = queries_ ? pressure_.every(spool_) : 0;
  std::vector<std::int32_t> kept;
  std::vector<std::int64_t> left_out;
  for (std::int64_t i = 0; i < rows; ++i)
    if (every > 0 && (first + i) % every == 0)
      kept.push_back(static_cast<std::int32_t>(i));
    else
      left_out.push_back(i);
  if (queries_) pressure_.left_out(static_cast<std::int64_t>(left_out.size()));
  const BlockShape shape(card_, card_.layers, rows, static_cast<std::int64_t>(kept.size()), card_.layers + 1,
                         logit_width());
  begin_pass(first, ids_, std::move(left_out));
  std::byte* block = spool_.reserve(shape.size_bytes);
  if (!kept.empty()) source_.copy_queries(block + shape.q, row + kept[0], every, shape.queries);
  source_.copy_lse(block + shape.lse, row, rows);
  source_.copy_norms(block + shape.hidden_norm, block + shape.attn_in_norm, row, rows);
  source_.release(static_cast<int>(row / half_rows));
  source_.copy_cache(block + shape.k, block + shape.v, first, rows);
  if (shape.vocab > 0) std::copy(logits_.begin(), logits_.end(), reinterpret_cast<float*>(block + shape.logits));
  logits_.clear();
  spool_.submit([this, block, shape, kept = std::move(kept)] { reader_.steps(block, shape, kept); });
  owed_first_ += rows;
  ids_.clear();
}

}  // namespace kvgrind::replay
