// Tiles of attention maps at every level, as bytes ready for a colour table; the latest used, up to a limit of memory.
// Level n: cells of 2^n × 2^n entries, tiles of 256 × 256 cells. Thread-safe.
#pragma once
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "replay/session.h"

namespace kvgrind::gui {

constexpr std::int64_t tile_side = 256;
constexpr float attention_low = 1e-5f;  // of the log scale

struct TileKey {
  std::int64_t sequence = 0, layer = 0, query_head = 0;
  replay::Pool pool = replay::Pool::max;
  int level = 0;
  std::int64_t row = 0, column = 0;
  auto tie() const { return std::tuple(sequence, layer, query_head, static_cast<int>(pool), level, row, column); }
  bool operator<(const TileKey& other) const { return tie() < other.tie(); }
};

struct ShadedTile {
  replay::Tile tile;
  std::vector<std::uint8_t> log_code, linear_code;  // [rows · columns]
};
// What the codes mean beside 1 … 253 (low to high): nothing is drawn for 0.
constexpr std::uint8_t code_blank = 0, code_absent = 254, code_nan = 255;
std::uint8_t attention_code(float value, bool log, float high = 1.0f);

class TilePyramid {
 public:
  TilePyramid(std::shared_ptr<const replay::Session> session, std::int64_t limit_bytes = 512ll << 20)
      : session_(std::move(session)), limit_(limit_bytes) {}
  std::shared_ptr<const ShadedTile> find(const TileKey& key) const;  // null: not there yet
  std::shared_ptr<const ShadedTile> load(const TileKey& key, const CancelToken& cancel);
  std::int64_t bytes() const;
  // The level at which a cell covers at least one pixel.
  static int level_for(double pixels_per_token);
  static int top_level(std::int64_t tokens);  // one tile covers everything

 private:
  struct Entry {
    std::shared_ptr<const ShadedTile> tile;
    std::list<TileKey>::iterator use;
    std::int64_t bytes = 0;
  };
  std::shared_ptr<const replay::Session> session_;
  std::int64_t limit_;
  mutable std::mutex mutex_;
  mutable std::list<TileKey> used_;  // latest first
  std::map<TileKey, Entry> tiles_;
  std::int64_t bytes_ = 0;
};

}  // namespace kvgrind::gui
