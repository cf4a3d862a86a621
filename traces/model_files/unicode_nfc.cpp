// Normal form C: decompose, order marks by combining class, compose (Unicode standard, section 3.11, and annex 15).
#include <algorithm>
#include <span>
#include <tuple>
#include <vector>

#include "traces/model_files/unicode.h"
#include "traces/model_files/unicode_tables.h"

namespace kvgrind::traces::unicode {
namespace {

// Hangul syllables follow from arithmetic.
constexpr char32_t syllables = 0xac00, leads = 0x1100, vowels = 0x1161, tails = 0x11a7;
constexpr char32_t vowel_count = 21, tail_count = 28, syllable_count = 11172, lead_count = 19;

const Decomposition* find_decomposition(char32_t code) {
  using Table = std::span<const Decomposition>;
  for (const Table entries : {Table(composing, composing_count), Table(one_way, one_way_count)}) {
    const Decomposition* table = entries.data();
    const Decomposition* end = table + entries.size();
    const Decomposition* at =
        std::lower_bound(table, end, code, [](const Decomposition& d, char32_t c) { return d.whole < c; });
    if (at != end && at->whole == code) return at;
  }
  return nullptr;
}

void decompose(char32_t code, std::vector<char32_t>& out) {
  if (code >= syllables && code < syllables + syllable_count) {
    const char32_t index = code - syllables;
    out.push_back(leads + index / (vowel_count * tail_count));
    out.push_back(vowels + index / tail_count % vowel_count);
    if (index % tail_count != 0) out.push_back(tails + index % tail_count);
    return;
  }
  const Decomposition* parts = code < 0xc0 || code >= first_invalid ? nullptr : find_decomposition(code);
  if (parts == nullptr) {
    out.push_back(code);
    return;
  }
  decompose(parts->first, out);
  if (parts->second != 0) decompose(parts->second, out);
}

int combining_class(char32_t code) {
  if (code < 0x300) return 0;
  const ClassRange* end = combining_classes + combining_classes_count;
  const ClassRange* after =
      std::upper_bound(combining_classes, end, code, [](char32_t c, const ClassRange& r) { return c < r.first; });
  return after != combining_classes && code <= (after - 1)->last ? (after - 1)->combining_class : 0;
}

// The character that a pair makes, 0 = none.
char32_t composed(char32_t first, char32_t second) {
  if (first >= leads && first < leads + lead_count && second >= vowels && second < vowels + vowel_count)
    return syllables + ((first - leads) * vowel_count + (second - vowels)) * tail_count;
  if (first >= syllables && first < syllables + syllable_count && (first - syllables) % tail_count == 0 &&
      second > tails && second < tails + tail_count)
    return first + (second - tails);
  static const std::vector<Decomposition> by_pair = [] {
    std::vector<Decomposition> table(composing, composing + composing_count);
    std::sort(table.begin(), table.end(), [](const Decomposition& a, const Decomposition& b) {
      return std::tie(a.first, a.second) < std::tie(b.first, b.second);
    });
    return table;
  }();
  const auto at = std::lower_bound(by_pair.begin(), by_pair.end(), std::pair{first, second},
                                   [](const Decomposition& d, const std::pair<char32_t, char32_t>& pair) {
                                     return std::tie(d.first, d.second) < std::tie(pair.first, pair.second);
                                   });
  return at != by_pair.end() && at->first == first && at->second == second ? at->whole : 0;
}

}  // namespace

std::string to_nfc(std::string_view text) {
  std::vector<char32_t> codes;
  bool plain = true;
  for (std::size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    at += c.size_bytes;
    plain = plain && (c.code < 0x300 || c.code >= first_invalid);
    decompose(c.code, codes);
  }
  if (plain) return std::string(text);  // below U+0300 everything is in form C

  struct Mark {
    char32_t code;
    int rank;
  };
  std::vector<Mark> marks(codes.size());
  for (std::size_t i = 0; i < codes.size(); ++i) marks[i] = {codes[i], combining_class(codes[i])};
  for (std::size_t begin = 0; begin < marks.size();) {
    std::size_t end = begin + 1;
    if (marks[begin].rank != 0) {
      while (end < marks.size() && marks[end].rank != 0) ++end;
      std::stable_sort(marks.begin() + static_cast<std::ptrdiff_t>(begin),
                       marks.begin() + static_cast<std::ptrdiff_t>(end),
                       [](const Mark& a, const Mark& b) { return a.rank < b.rank; });
    }
    begin = end;
  }

  // A mark joins the last starter unless one of its own class or a higher one stands between them.
  std::vector<char32_t> out;
  std::ptrdiff_t starter = -1;
  int last_rank = 0;
  for (const Mark& mark : marks) {
    const bool adjacent = starter >= 0 && starter + 1 == static_cast<std::ptrdiff_t>(out.size());
    if (starter >= 0 && (adjacent || (last_rank < mark.rank && last_rank != 0))) {
      const char32_t whole = composed(out[static_cast<std::size_t>(starter)], mark.code);
      if (whole != 0) {
        out[static_cast<std::size_t>(starter)] = whole;
        continue;
      }
    }
    if (mark.rank == 0) starter = static_cast<std::ptrdiff_t>(out.size());
    last_rank = mark.rank;
    out.push_back(mark.code);
  }
  std::string result;
  for (const char32_t code : out) append_utf8(result, code);
  return result;
}

}  // namespace kvgrind::traces::unicode
