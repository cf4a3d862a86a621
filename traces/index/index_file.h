// `NAME.kvt.index`: per query head a causal max and mean map of at most 512 × 512 cells, log-quantised to 8 bits: the
// base of the attention pyramid. Beside the trace, never in it; made by `kvgrind index`.
// Layout, little-endian: magic "KVGINDEX", u64 version 1, u64 trace hash, u64 layers, u64 query heads, u64 sequences;
// per sequence 4 u64: id, tokens, cell, side; u64 XXH3-64 of all before it. Then per sequence, layer and head:
// max codes [side·(side+1)/2], mean codes [the same], rows r by columns c ≤ r, u64 XXH3-64 of the two.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/array.h"

namespace kvgrind::traces {

inline constexpr std::int64_t index_side = 512;
inline constexpr std::int64_t index_least_cell = 8;  // finer maps would outweigh short traces, and are quick to compute

struct IndexedSequence {
  std::int64_t id = 0, tokens = 0, cell = 0, side = 0;
};
struct IndexLayout {
  std::string trace_hash;  // 16 hex digits
  std::int64_t layers = 0, query_heads = 0;
  std::vector<IndexedSequence> sequences;
};
// The smallest power of two, at least 8, that covers `tokens` with at most 512 cells.
std::int64_t index_cell(std::int64_t tokens);
std::filesystem::path index_path(const std::filesystem::path& trace);

struct IndexMap {
  std::int64_t cell = 0;
  Array<float, 2> max, mean;  // [side, side], 0 above the diagonal, NaN where nothing was recorded
};

class IndexWriter {
 public:
  // Written to `<path>.part`, renamed by close(). Error(write) when the file exists and force is off.
  IndexWriter(const std::filesystem::path& path, const IndexLayout& layout, bool force);
  ~IndexWriter();
  // In the order sequence, layer, head. Error(write).
  void write(const IndexMap& map);
  void close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Thread-safe.
class IndexFile {
 public:
  // Null when there is none. Error(damaged) for anything but an index of that trace.
  static std::shared_ptr<const IndexFile> open(const std::filesystem::path& path, const std::string& trace_hash);
  ~IndexFile();
  const IndexLayout& layout() const;
  // Empty: the sequence is not in it. Error(damaged | missing).
  std::optional<IndexMap> map(std::int64_t sequence, std::int64_t layer, std::int64_t query_head) const;

 private:
  IndexFile();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvgrind::traces
