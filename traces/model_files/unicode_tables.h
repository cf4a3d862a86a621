// Generated tables, sorted by code point. See make_unicode_tables.py.
#pragma once
#include <cstddef>
#include <cstdint>

namespace kvgrind::traces::unicode {

struct Range {
  char32_t first, last;
};
struct ClassRange {
  char32_t first, last;
  std::uint8_t combining_class;
};
struct Decomposition {
  char32_t whole, first, second;  // second 0 = none
};

extern const Range letters[], numbers[], spaces[], words[];
extern const std::size_t letters_count, numbers_count, spaces_count, words_count;
extern const Decomposition composing[], one_way[];  // NFC composes the pairs of the first table only
extern const std::size_t composing_count, one_way_count;
extern const ClassRange combining_classes[];
extern const std::size_t combining_classes_count;

}  // namespace kvgrind::traces::unicode
