// What is looked at: one value that all views share, and its history.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace kvgrind::gui {

struct Range {
  std::int64_t begin = 0, end = 0;  // empty = all
  bool empty() const { return end <= begin; }
  bool operator==(const Range&) const = default;
};

struct Selection {
  std::int64_t sequence = 0, layer = 0, query_head = 0;
  Range query, key;
  std::int64_t query_at = -1, key_at = -1;  // the cell under the cursor; −1 = none
  std::int64_t step = -1;                   // tokens seen; −1 = the end
  std::vector<std::string> jobs;            // keys of jobs (`job_key`); empty = all
  bool operator==(const Selection&) const = default;
};

// What there is to select; every part of a selection is brought within it.
struct Limits {
  std::int64_t layers = 1, query_heads = 1, kv_heads = 1, tokens = 0;
  std::vector<std::int64_t> sequences;
};
Selection within(Selection selection, const Limits& limits);

// "L12 q5 k1043 r200 s3" in any order: layer, query head, key, query (row), sequence. False when it does not read.
bool apply_place(const std::string& text, Selection& selection);
std::string place_text(const Selection& selection);

// Back and forward, as in a browser; equal neighbours are kept once.
class SelectionHistory {
 public:
  void visit(const Selection& selection);
  bool can_back() const { return at_ > 0; }
  bool can_forward() const { return at_ + 1 < seen_.size(); }
  Selection back();
  Selection forward();

 private:
  std::vector<Selection> seen_;
  std::size_t at_ = 0;
};

}  // namespace kvgrind::gui
