// Categories along lines of tokens (states of a cache, agreement of two policies): what lies where, and how often each
// occurs in a stretch, quickly enough to paint any zoom of many lines.
#pragma once
#include <cstdint>
#include <vector>

#include "core/progress.h"

namespace kvgrind::gui {

class CategoryRaster {
 public:
  static constexpr std::uint8_t nothing = 255;  // counted nowhere

  CategoryRaster() = default;
  // categories [rows · tokens], each below 64 or `nothing`.
  CategoryRaster(std::int64_t rows, std::int64_t tokens, std::vector<std::uint8_t> categories,
                 const CancelToken& cancel = {});
  std::int64_t rows() const { return rows_; }
  std::int64_t tokens() const { return tokens_; }
  std::uint8_t at(std::int64_t row, std::int64_t token) const {
    return categories_[static_cast<std::size_t>(row * tokens_ + token)];
  }
  const std::vector<std::uint8_t>& present() const { return present_; }  // categories there are, ascending
  // Tokens of [begin, end) by category, in the order of present(). Of stretches of many blocks the ends are taken to
  // whole blocks: at a scale where a pixel covers them the difference cannot be seen.
  void count(std::int64_t row, std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& counts) const;

  static constexpr std::int64_t block = 64;

 private:
  std::int64_t rows_ = 0, tokens_ = 0, blocks_ = 0;
  std::vector<std::uint8_t> categories_, present_;
  std::vector<std::int32_t> before_;  // [rows][blocks + 1][present]: tokens before a block
};

}  // namespace kvgrind::gui
