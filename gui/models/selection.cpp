#include "gui/models/selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <sstream>

namespace kvgrind::gui {
namespace {

constexpr std::size_t most_seen = 200;

Range within(Range range, std::int64_t tokens) {
  range.begin = std::clamp<std::int64_t>(range.begin, 0, tokens);
  range.end = std::clamp<std::int64_t>(range.end, 0, tokens);
  return range.empty() ? Range{} : range;
}

}  // namespace

Selection within(Selection s, const Limits& limits) {
  if (std::find(limits.sequences.begin(), limits.sequences.end(), s.sequence) == limits.sequences.end() &&
      !limits.sequences.empty())
    s.sequence = limits.sequences.front();
  s.layer = std::clamp<std::int64_t>(s.layer, 0, std::max<std::int64_t>(0, limits.layers - 1));
  s.query_head = std::clamp<std::int64_t>(s.query_head, 0, std::max<std::int64_t>(0, limits.query_heads - 1));
  s.query = within(s.query, limits.tokens);
  s.key = within(s.key, limits.tokens);
  s.query_at = std::clamp<std::int64_t>(s.query_at, -1, limits.tokens - 1);
  s.key_at = std::clamp<std::int64_t>(s.key_at, -1, limits.tokens - 1);
  s.step = std::clamp<std::int64_t>(s.step, -1, limits.tokens);
  return s;
}

bool apply_place(const std::string& text, Selection& selection) {
  Selection out = selection;
  std::istringstream words(text);
  std::string word;
  bool any = false;
  while (words >> word) {
    std::int64_t value = 0;
    const char* end = word.data() + word.size();
    const auto [stop, fault] = std::from_chars(word.data() + 1, end, value);
    if (word.size() < 2 || fault != std::errc() || stop != end || value < 0) return false;
    switch (word[0]) {
      case 'L':
      case 'l':
        out.layer = value;
        break;
      case 'q':
        out.query_head = value;
        break;
      case 'k':
        out.key_at = value;
        break;
      case 'r':
        out.query_at = value;
        break;
      case 's':
        out.sequence = value;
        break;
      default:
        return false;
    }
    any = true;
  }
  if (any) selection = out;
  return any;
}

std::string place_text(const Selection& s) {
  std::string out = fmt::format("s{} L{} q{}", s.sequence, s.layer, s.query_head);
  if (s.query_at >= 0) out += fmt::format(" r{}", s.query_at);
  if (s.key_at >= 0) out += fmt::format(" k{}", s.key_at);
  return out;
}

void SelectionHistory::visit(const Selection& selection) {
  if (!seen_.empty() && seen_[at_] == selection) return;
  if (!seen_.empty()) seen_.resize(at_ + 1);
  seen_.push_back(selection);
  if (seen_.size() > most_seen) seen_.erase(seen_.begin());
  at_ = seen_.size() - 1;
}

Selection SelectionHistory::back() {
  if (can_back()) --at_;
  return seen_.empty() ? Selection{} : seen_[at_];
}

Selection SelectionHistory::forward() {
  if (can_forward()) ++at_;
  return seen_.empty() ? Selection{} : seen_[at_];
}

}  // namespace kvgrind::gui
