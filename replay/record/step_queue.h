// Decode steps on their way to the writer thread. Kernels (or a test) write the q, LSE and norms of each step into a
// ring of two halves; when a half is full, or before anything else is recorded, it goes through the spool as one pass,
// with the cache's K and V of those positions. Under pressure queries are left out, or whole halves are dropped: their
// K and V stay owed, and are taken from the cache as soon as there is room.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/tap.h"
#include "kernels/capture/spool.h"
#include "replay/record/pressure.h"
#include "replay/record/spool_block.h"

namespace kvgrind::replay {

// Where steps are copied from. Rows are rows of the ring; copies may be asynchronous, on the spool's copy stream.
class StepSource {
 public:
  virtual ~StepSource() = default;
  virtual void fill(int half) = 0;     // the coming steps write there: earlier copies from it must be over
  virtual void ready(int half) = 0;    // the steps in it, and the cache's rows of them, are what copies now read
  virtual void release(int half) = 0;  // the copies from it are queued
  // n steps leave the ring, kept or not: rows `row` and on, of positions first and on.
  virtual void leaving(std::int64_t row, std::int64_t first, std::int64_t n) { (void)row, (void)first, (void)n; }
  // n queries [L, Hq, D]: rows `row`, row + every, …
  virtual void copy_queries(std::byte* to, std::int64_t row, std::int64_t every, std::int64_t n) = 0;
  virtual void copy_lse(std::byte* to, std::int64_t row, std::int64_t n) = 0;
  virtual void copy_norms(std::byte* hidden, std::byte* attn_in, std::int64_t row, std::int64_t n) = 0;
  // K and V of positions [first, first + n), [L, Hk, n, D] each.
  virtual void copy_cache(std::byte* k, std::byte* v, std::int64_t first, std::int64_t n) = 0;
};

class StepQueue {
 public:
  static constexpr std::int64_t half_rows = 64, ring_rows = 2 * half_rows;

  // `queries`: whether any are wanted; `logits`: whether those of each step come by logits(). All must outlive this;
  // reader and recorder are used on the writer thread.
  StepQueue(StepSource& source, kernels::CaptureSpool& spool, Pressure& pressure, BlockReader& reader,
            traces::Recorder& recorder, const ModelCard& card, bool queries, bool logits = false);

  // The ring's row for the coming step.
  std::int64_t step(const TapPass& pass);
  void queued();                            // it has been queued
  void logits(std::span<const float> row);  // of the step queued last, where they are wanted
  void flush();  // everything that waits or is owed, whatever the pressure: before another pass, at the end

 private:
  void send(bool all);
  void send_owed(std::int64_t rows);
  void send_half();
  void begin_pass(std::int64_t first, std::vector<std::int32_t> ids, std::vector<std::int64_t> left_out);
  // Of the steps in the ring: 0 unless all of them have logits.
  std::int64_t logit_width() const {
    const auto rows = static_cast<std::int64_t>(ids_.size());
    return rows > 0 && static_cast<std::int64_t>(logits_.size()) == rows * card_.vocab ? card_.vocab : 0;
  }
  std::int64_t bare_bytes(std::int64_t rows) const { return BlockShape(card_, card_.layers, rows, 0, 0).size_bytes; }

  StepSource& source_;
  kernels::CaptureSpool& spool_;
  Pressure& pressure_;
  BlockReader& reader_;
  traces::Recorder& recorder_;
  const ModelCard& card_;
  bool queries_, wants_logits_;
  std::vector<float> logits_;  // of the steps in the ring
  std::int64_t ring_row_ = 0, sequence_ = -1;
  // Positions [owed_first_, owed_first_ + owed_.size()) lack their K and V; those in the ring follow.
  std::int64_t owed_first_ = 0;
  std::vector<std::int32_t> owed_, ids_;
};

}  // namespace kvgrind::replay
