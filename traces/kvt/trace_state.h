// Inside of the reader: a trace's committed rows and the means to read verified slices. Not for other folders.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "traces/kvt/schema.h"
#include "traces/kvt/trace.h"

namespace kvgrind::traces {

// What commit rows say, stream by stream, and what of the row table could not be trusted.
struct Commits {
  std::vector<Row> tok, seg, map, probe;
  std::int64_t rows = 0, queries = 0, bytes = 0;  // tok: tokens, rows of q, bytes of text
  std::int64_t total = 0, damaged = 0;            // rows of the table; rows of it that no stream accepts
};

// Consecutive positions that lie in consecutive rows.
struct Run {
  std::int64_t position = 0, row = 0, n = 0;
};

struct SequenceParts {
  SequenceInfo info;
  std::vector<Run> own;        // its own rows, ascending positions
  std::int64_t inherited = 0;  // segments that come from the parent
  std::int64_t next_token = -1;
  const Row* seg = nullptr;  // its seg commit, once done
  const Row* map = nullptr;
};

struct Trace::State {
  std::filesystem::path path;
  std::string name;
  OpenOptions options;
  hdf5::File file;
  std::map<std::string, hdf5::Dataset> datasets;
  Layout layout;
  SumColumns columns{};
  json::object provenance;
  std::vector<std::string> not_recorded;
  TraceState state = TraceState::unfinished;
  std::array<std::uint64_t, 8> status{};
  double mass_error = 0.0;
  std::string card_text;
  Commits commits;
  std::vector<std::uint64_t> sums;                        // tok_sums of all tok commits
  mutable std::unique_ptr<std::atomic<bool>[]> verified;  // as sums
  std::vector<std::int64_t> q_row;
  std::vector<SequenceParts> parts;
  std::vector<SequenceInfo> infos;
  std::string hash;

  // Opens and checks everything but the bulk data. `walk`: also every chunk's place in the index.
  void load(bool walk);

  const hdf5::Dataset& at(const std::string& dataset) const;
  const SequenceParts& part(std::int64_t sequence) const;  // Error(usage)
  void check_layer(std::int64_t layer) const;
  void check_head(std::int64_t head, std::int64_t heads) const;
  std::vector<Run> runs(std::int64_t sequence) const;  // of the whole sequence, parents' prefixes included
  // Sequence and own index that a segment of the whole sequence belongs to.
  std::pair<std::int64_t, std::int64_t> owner(std::int64_t sequence, std::int64_t segment) const;

  enum class Axis : std::uint8_t { rows, queries, bytes };
  // Rows [first, first + n) of one (layer, head) of k, v, q or one layer of lse, or of a small dataset (layer < 0), in
  // the file's type; slices not yet verified are.
  std::vector<std::byte> slice(const std::string& dataset_name, Axis axis, std::int64_t first, std::int64_t n,
                               std::int64_t layer, std::int64_t head, std::int64_t column) const;
  std::vector<std::byte> small(Small which, std::int64_t first, std::int64_t n) const;
  template <class T>
  std::vector<T> small_rows(Small which, std::int64_t sequence) const;
  void read_group(const char* dataset, std::int64_t sequence, std::int64_t layer, std::int64_t head,
                  std::int64_t column, float* out) const;

  // Rows of a table of sealed rows; Error(damaged).
  std::vector<Row> table(const std::string& dataset, std::int64_t first, std::int64_t n) const;

 private:
  void open_header();
  void open_datasets();
  void read_commits();
  void read_sequences();
  std::vector<SequenceParts> announced_sequences();
};

// The commit table read in order: rows must be sealed, numbered, chained and continuous per stream.
Commits read_commit_rows(const hdf5::Dataset& commit);
// A committed text blob of a name, checked against its checksum.
std::string read_text_blob(const hdf5::File& file, const std::string& name, bool summed);
// Exists, is a regular file and begins as HDF5 does; Error(missing | damaged) with a plain reason.
void check_is_hdf5(const std::filesystem::path& path);

// Raw bytes of one layer of w_o, verified.
std::vector<std::byte> read_output_projection(const Trace::State& state, std::int64_t layer);
// Reads and verifies column sums, query statistics and maps of one layer of a sequence of its own; Error(damaged).
void verify_statistics(const Trace::State& state, std::int64_t sequence, std::int64_t layer);
// Row of /probe_index and checksums by layer of a probe commit, and its values of one layer, verified:
// [statistics · keys, Hq]. Error(damaged).
struct CommittedProbe {
  Row index{};
  std::vector<std::uint64_t> sums;
};
CommittedProbe committed_probe(const Trace::State& state, const Row& commit);
std::vector<float> read_probe(const Trace::State& state, const CommittedProbe& probe, std::int64_t layer);

template <class T>
std::vector<T> Trace::State::small_rows(Small which, std::int64_t sequence) const {
  std::vector<T> out;
  for (const Run& run : runs(sequence)) {
    const std::vector<std::byte> bytes = small(which, run.row, run.n);
    const T* values = reinterpret_cast<const T*>(bytes.data());
    out.insert(out.end(), values, values + bytes.size() / sizeof(T));
  }
  return out;
}

}  // namespace kvgrind::traces
