#include "gui/models/tile_pyramid.h"

#include <algorithm>
#include <cmath>

namespace kvgrind::gui {

std::uint8_t attention_code(float value, bool log, float high) {
  if (std::isnan(value)) return code_nan;
  if (log) {
    if (value <= attention_low) return 1;
    const float t = 1.0f - std::log10(value / high) / std::log10(attention_low / high);
    return static_cast<std::uint8_t>(1 + std::clamp(std::lround(252.0f * t), 0l, 252l));
  }
  return static_cast<std::uint8_t>(1 + std::clamp(std::lround(252.0f * value / high), 0l, 252l));
}

int TilePyramid::level_for(double pixels_per_token) {
  int level = 0;
  while (level < 30 && pixels_per_token * static_cast<double>(1ll << level) < 1.0 - 1e-9) ++level;
  return level;
}

int TilePyramid::top_level(std::int64_t tokens) {
  int level = 0;
  while ((tile_side << level) < tokens) ++level;
  return level;
}

std::shared_ptr<const ShadedTile> TilePyramid::find(const TileKey& key) const {
  const std::lock_guard lock(mutex_);
  const auto it = tiles_.find(key);
  if (it == tiles_.end()) return nullptr;
  used_.splice(used_.begin(), used_, it->second.use);
  return it->second.tile;
}

std::shared_ptr<const ShadedTile> TilePyramid::load(const TileKey& key, const CancelToken& cancel) {
  if (auto there = find(key)) return there;
  const std::int64_t tokens = replay::find_sequence(session_->run(), key.sequence).tokens;
  const std::int64_t cell = 1ll << key.level, span = tile_side * cell;
  const std::int64_t query = key.row * span, keys = key.column * span;
  auto made = std::make_shared<ShadedTile>();
  made->tile = session_->attention_tile({.sequence = key.sequence,
                                         .layer = key.layer,
                                         .query_head = key.query_head,
                                         .query_begin = query,
                                         .query_end = std::min(tokens, query + span),
                                         .key_begin = keys,
                                         .key_end = std::min(tokens, keys + span),
                                         .cell = cell,
                                         .pool = key.pool},
                                        cancel);
  const Array<float, 2>& value = made->tile.value;
  made->log_code.resize(static_cast<std::size_t>(value.size()));
  made->linear_code.resize(static_cast<std::size_t>(value.size()));
  const float high = key.pool == replay::Pool::sum ? static_cast<float>(cell) : 1.0f;
  for (std::int64_t r = 0; r < value.extent(0); ++r)
    for (std::int64_t c = 0; c < value.extent(1); ++c) {
      const auto at = static_cast<std::size_t>(r * value.extent(1) + c);
      if (keys + c * cell > query + (r + 1) * cell - 1) continue;  // above the diagonal: blank
      const bool recorded = made->tile.recorded[static_cast<std::size_t>(r)] != 0;
      made->log_code[at] = recorded ? attention_code(value(r, c), true, high) : code_absent;
      made->linear_code[at] = recorded ? attention_code(value(r, c), false, high) : code_absent;
    }
  const std::int64_t bytes = value.size() * 6 + 256;
  const std::lock_guard lock(mutex_);
  if (const auto it = tiles_.find(key); it != tiles_.end()) return it->second.tile;
  used_.push_front(key);
  tiles_[key] = {made, used_.begin(), bytes};
  bytes_ += bytes;
  while (bytes_ > limit_ && used_.size() > 1) {
    const auto it = tiles_.find(used_.back());
    bytes_ -= it->second.bytes;
    tiles_.erase(it);
    used_.pop_back();
  }
  return made;
}

std::int64_t TilePyramid::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace kvgrind::gui
