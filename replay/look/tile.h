// Pooled attention of a rectangle of one head: exact from queries, keys and LSE, or from a recorded map where that
// would take too long or the queries were not recorded.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/model_card.h"
#include "core/progress.h"
#include "replay/look/head_data.h"

namespace kvgrind::replay {

enum class Pool : std::uint8_t { max, mean, sum };

// Queries [query_begin, query_end) down, keys [key_begin, key_end) across; a cell covers `cell` × `cell` entries.
struct TileRequest {
  std::int64_t sequence = 0, layer = 0, query_head = 0;
  std::int64_t query_begin = 0, query_end = 0, key_begin = 0, key_end = 0;
  std::int64_t cell = 1;
  Pool pool = Pool::max;
  bool exact = false;  // compute from the queries whatever it takes
  bool operator==(const TileRequest&) const = default;
};

enum class TileSource : std::uint8_t { exact, sampled, map };  // map: recorded or indexed, log-quantised to 8 bits

struct Tile {
  Array<float, 2> value;               // NaN where no query of the cell was recorded; 0 above the diagonal
  std::vector<std::uint8_t> recorded;  // [rows] 0: NaN there means "not recorded", not a NaN that was met
  bool exact = true;                   // false: some queries of it were left out, or it is from a map
  TileSource source = TileSource::exact;
  std::string origin;  // in words: "exact", "every 4th query", "recorded map, cells of 16 tokens"
};

// A square map of one head in cells of `cell` tokens, causal pairs only.
struct CoarseMap {
  std::int64_t cell = 0;
  Array<float, 2> max, mean;  // [cells, cells]
  std::string origin;
};

// Attention of every `stride`-th recorded query of the rectangle.
Tile compute_tile(const ModelCard& card, const HeadData& head, const TileRequest& request, std::int64_t stride,
                  const CancelToken& cancel);
// From a map whose cell divides the request's and whose edges align with it. `tokens` of the sequence.
Tile tile_from_map(const CoarseMap& map, const TileRequest& request, std::int64_t tokens);
bool map_serves(const CoarseMap& map, const TileRequest& request);

// Multiply-adds that compute_tile would take with every query.
double tile_cost(const ModelCard& card, const HeadData& head, const TileRequest& request);

}  // namespace kvgrind::replay
