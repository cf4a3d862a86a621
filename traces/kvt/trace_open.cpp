// Opening a trace: what kind of file it is, its header, its commit rows, and the sequences that follow from them.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/hash.h"
#include "traces/kvt/output_file.h"
#include "traces/kvt/probe.h"
#include "traces/kvt/segments.h"
#include "traces/kvt/trace_state.h"

namespace kvgrind::traces {

using hdf5::read_fault;

namespace {

Error missing(const std::filesystem::path& path, const std::string& found, const std::string& next = "") {
  return Error(
      Category::missing,
      {.doing = "reading trace", .on = path.string(), .found = found, .expected = "a .kvt trace", .next = next});
}

// What the first bytes look like, for people.
std::string kind_of(const unsigned char* head, std::size_t n) {
  const auto starts = [&](const char* magic, std::size_t length) {
    return n >= length && std::memcmp(head, magic, length) == 0;
  };
  if (n == 0) return "an empty file";
  if (starts("\x89PNG", 4)) return "a PNG picture";
  if (starts("\x1f\x8b", 2)) return "a gzip file";
  if (starts("PK\x03\x04", 4)) return "a zip file (a PyTorch pickle?)";
  if (starts("\x80\x02", 2) || starts("\x80\x03", 2) || starts("\x80\x04", 2) || starts("\x80\x05", 2))
    return "a Python pickle";
  if (std::all_of(head, head + n, [](unsigned char c) { return c >= 32 || c == '\n' || c == '\r' || c == '\t'; }))
    return "a text file";
  return "no HDF5 file";
}

}  // namespace

void check_is_hdf5(const std::filesystem::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    struct stat part;
    if (errno == ENOENT && ::stat((path.string() + ".part").c_str(), &part) == 0)
      throw missing(
          path, "no such file, but an unfinished recording",
          fmt::format("open {}.part, or save it with `kvgrind repair {}.part -o FILE`", path.string(), path.string()));
    throw missing(path, errno == ENOENT ? "no such file" : std::strerror(errno));
  }
  struct stat info;
  if (fstat(file.get(), &info) != 0) throw missing(path, std::strerror(errno));
  if (is_segment_folder(path))
    throw Error(Category::damaged, {.doing = "reading trace",
                                    .on = path.string(),
                                    .found = "a recording in segment files that are not joined",
                                    .expected = "a .kvt trace",
                                    .usable = "every segment that was closed",
                                    .next = fmt::format("`kvgrind repair {} -o FILE` joins them", path.string())});
  if (S_ISDIR(info.st_mode)) throw read_fault(path.string(), "a folder", "a .kvt trace");
  if (!S_ISREG(info.st_mode)) throw read_fault(path.string(), "a device or pipe", "a .kvt trace");
  unsigned char head[64];
  const ssize_t n = ::read(file.get(), head, sizeof head);
  if (n < 0) throw missing(path, std::strerror(errno));
  if (n < 8 || std::memcmp(head, "\x89HDF\r\n\x1a\n", 8) != 0)
    throw read_fault(path.string(), kind_of(head, static_cast<std::size_t>(n)), "a .kvt trace (HDF5)");
}

std::string read_text_blob(const hdf5::File& file, const std::string& name, bool summed) {
  const hdf5::Dataset blob = hdf5::open_blob(file, name, max_blob_bytes);
  std::string text(static_cast<std::size_t>(blob.extents[0]), '\0');
  hdf5::read_rows(blob, 0, blob.extents[0], text.data());
  if (summed && hdf5::read_u64_attribute(blob, "xxh3") != hash_text(text))
    throw read_fault(blob.on, "another checksum than recorded", "an undamaged file");
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

Commits read_commit_rows(const hdf5::Dataset& commit) {
  Commits out;
  out.total = commit.extents[0];
  std::array<std::uint64_t, 5> chain{};
  std::array<std::int64_t, 5> count{};
  constexpr std::int64_t piece = 4096;
  std::vector<Row> rows;
  const auto natural = [](std::uint64_t v) { return v < (std::uint64_t{1} << 62); };
  for (std::int64_t first = 0; first < out.total; first += piece) {
    rows.resize(static_cast<std::size_t>(std::min(piece, out.total - first)));
    try {
      hdf5::read_rows(commit, first, static_cast<std::int64_t>(rows.size()), rows.data());
    } catch (const Error&) {
      out.damaged += out.total - first;
      return out;
    }
    std::int64_t good = 0;
    for (const Row& row : rows) {
      using namespace commit_column;
      const std::uint64_t s = row[stream];
      bool ok = sealed(row) && s >= 1 && s <= 4 && natural(row[number]);
      ok = ok && signed_at(row, number) == count[s] && row[commit_column::chain] == chain[s];
      if (ok && s == 1) {
        for (const int column : {first_row, commit_column::rows, first_query, queries, first_byte, bytes})
          ok = ok && natural(row[static_cast<std::size_t>(column)]);
        ok = ok && signed_at(row, first_row) == out.rows && signed_at(row, commit_column::rows) > 0 &&
             signed_at(row, first_query) == out.queries &&
             signed_at(row, queries) <= signed_at(row, commit_column::rows) &&
             signed_at(row, first_byte) == out.bytes && signed_at(row, commit_column::rows) < (std::int64_t{1} << 40) &&
             signed_at(row, bytes) < (std::int64_t{1} << 40);
        if (ok) {
          out.rows += signed_at(row, commit_column::rows);
          out.queries += signed_at(row, queries);
          out.bytes += signed_at(row, bytes);
        }
      }
      if (!ok) {
        ++out.damaged;
        continue;
      }
      ++good;
      ++count[s];
      chain[s] = row[15];
      (s == 1 ? out.tok : s == 2 ? out.seg : s == 3 ? out.map : out.probe).push_back(row);
    }
    if (good == 0) {  // nothing but ragged tail
      out.damaged += std::max<std::int64_t>(0, out.total - first - static_cast<std::int64_t>(rows.size()));
      return out;
    }
  }
  return out;
}

const hdf5::Dataset& Trace::State::at(const std::string& dataset) const {
  const auto it = datasets.find(dataset);
  assert(it != datasets.end());
  return it->second;
}

void Trace::State::open_header() {
  if (hdf5::read_text_attribute(file, "kvgrind_format") != format_name)
    throw read_fault(name, "an HDF5 file of another program", "a kvgrind trace");
  const std::vector<std::int64_t> numbers = hdf5::read_i64_attribute(file, "version", 2);
  if (numbers[0] != format_major)
    throw Error(Category::damaged, {.doing = "reading trace",
                                    .on = name,
                                    .found = fmt::format("format {}.{}", numbers[0], numbers[1]),
                                    .expected = fmt::format("{}.x; this build reads format {}.{}", format_major,
                                                            format_major, format_minor),
                                    .next = numbers[0] > format_major ? "update kvgrind" : "record it again"});
  if (const std::string features = hdf5::read_text_attribute(file, "required_features"); !features.empty())
    throw Error(Category::damaged, {.doing = "reading trace",
                                    .on = name,
                                    .found = fmt::format("the required feature \"{}\"", features),
                                    .expected = "only features that this build knows (none)",
                                    .next = "update kvgrind"});
  hdf5::read_text_attribute(file, "optional_features");
  card_text = read_text_blob(file, "card", true);
  layout.card = parse_card(parse_json(card_text, name + ": /card"), name + ": /card");
  parse_header(parse_json(read_text_blob(file, "header", true), name + ": /header"), name + ": /header", layout);
  const json::value about = parse_json(read_text_blob(file, "provenance", true), name + ": /provenance");
  if (!about.is_object()) throw read_fault(name + ": /provenance", "no JSON object", "an object");
  provenance = about.get_object();
  const std::string list = read_text_blob(file, "not_recorded", false);
  try {
    const json::value lines = parse_json(list, name + ": /not_recorded");
    for (const json::value& line : lines.as_array()) not_recorded.emplace_back(line.as_string().c_str());
  } catch (const std::exception&) {
    not_recorded = {"the list of what was not recorded is unreadable"};
  }
  columns = sum_columns(layout.card);
}

void Trace::State::open_datasets() {
  // The commit table is opened and read first: what it covers is already in the others, even while a writer goes on.
  const std::vector<hdf5::DatasetSpec> specs = dataset_specs(layout);
  datasets.emplace("commit", hdf5::open_dataset(file, specs.front()));
  commits = read_commit_rows(at("commit"));
  for (const hdf5::DatasetSpec& spec : specs)
    if (spec.name != "commit") datasets.emplace(spec.name, hdf5::open_dataset(file, spec));
  const auto need = [&](const char* dataset, std::int64_t n) {
    if (at(dataset).extents[0] < n)
      throw read_fault(at(dataset).on, fmt::format("{} rows", at(dataset).extents[0]),
                       fmt::format("the {} committed", n));
  };
  for (const char* dataset : {"k", "v", "lse"}) need(dataset, commits.rows);
  if (layout.content.queries) need("q", commits.queries);
  for (int i = 0; i < small_count; ++i) {
    const Small which = static_cast<Small>(i);
    if (has_small(layout.content, which))
      need(small_name(which), which == Small::q_row  ? commits.queries
                              : which == Small::text ? commits.bytes
                                                     : commits.rows);
  }
  need("tok_sums", static_cast<std::int64_t>(commits.tok.size()));

  hdf5::read_rows(at("status"), 0, 1, status.data());
  if (status[status_column::sum] == hash_bytes(status.data(), 7 * 8) && status[status_column::state] <= 3) {
    static constexpr TraceState states[] = {TraceState::unfinished, TraceState::complete,
                                            TraceState::truncated_disk_full, TraceState::interrupted};
    state = states[status[status_column::state]];
    mass_error = state == TraceState::unfinished ? std::numeric_limits<double>::quiet_NaN()
                                                 : std::bit_cast<double>(status[status_column::mass_error]);
    const std::int64_t said = static_cast<std::int64_t>(status[status_column::rows]);
    const std::int64_t rows_said = static_cast<std::int64_t>(status[status_column::commits]);
    if (state != TraceState::unfinished && rows_said > commits.total)
      not_recorded.push_back(
          fmt::format("{}: damaged, {} of {} rows are there", at("commit").on, commits.total, rows_said));
    if (state != TraceState::unfinished && said > commits.rows)
      not_recorded.push_back(
          fmt::format("tokens of rows {} to {}: their commit rows are damaged", commits.rows, said - 1));
  } else {
    status = {};
    mass_error = std::numeric_limits<double>::quiet_NaN();
  }
}

void Trace::State::read_commits() {
  const std::int64_t n = static_cast<std::int64_t>(commits.tok.size()), width = columns.size();
  const std::int64_t bytes = hdf5::checked_product({n, width, 8});
  if (bytes < 0 || bytes > hdf5::max_allocation_bytes)
    throw read_fault(at("tok_sums").on, fmt::format("{} rows", n), "at most 2 GiB");
  sums.resize(static_cast<std::size_t>(n * width));
  hdf5::read_rows(at("tok_sums"), 0, n, sums.data());
  verified = std::make_unique<std::atomic<bool>[]>(sums.size());
  for (std::int64_t i = 0; i < n; ++i) {
    Row folded{};
    fold_token_sums(
        columns, std::span(sums).subspan(static_cast<std::size_t>(i * width), static_cast<std::size_t>(width)), folded);
    const Row& row = commits.tok[static_cast<std::size_t>(i)];
    if (!std::equal(folded.begin() + commit_column::k_sum, folded.begin() + commit_column::small_sum + 1,
                    row.begin() + commit_column::k_sum))
      throw read_fault(at("tok_sums").on, fmt::format("other checksums in row {} than committed", i),
                       "an undamaged file");
  }
  Hasher hasher;
  hasher.add_text(card_text);
  for (const std::vector<Row>* stream : {&commits.tok, &commits.seg, &commits.probe})
    for (const Row& row : *stream) hasher.add(row.data(), sizeof row);
  hash = hex(hasher.digest());
}

std::vector<Row> Trace::State::table(const std::string& dataset, std::int64_t first, std::int64_t n) const {
  const hdf5::Dataset& from = at(dataset);
  if (first < 0 || n < 0 || n > (1 << 24) || first > from.extents[0] - n)
    throw read_fault(from.on, fmt::format("{} rows", from.extents[0]),
                     fmt::format("rows {} to {} that another table names", first, first + n - 1));
  std::vector<Row> rows(static_cast<std::size_t>(n));
  hdf5::read_rows(from, first, n, rows.data());
  for (const Row& row : rows)
    if (!sealed(row)) throw read_fault(from.on, "a row with a wrong checksum", "an undamaged file");
  return rows;
}

// Sequences as announced, replaced by what their seg commit says once done; own segments and spans only.
std::vector<SequenceParts> Trace::State::announced_sequences() {
  std::vector<SequenceParts> out;
  const std::string names = read_text_blob(file, "names", true);
  // Each table once and whole; a row is trusted when it is used.
  const auto whole = [&](const char* dataset) {
    std::vector<Row> all(static_cast<std::size_t>(at(dataset).extents[0]));
    if (all.size() > (std::size_t{1} << 24))
      throw read_fault(at(dataset).on, fmt::format("{} rows", all.size()), "at most 2^24");
    hdf5::read_rows(at(dataset), 0, at(dataset).extents[0], all.data());
    return all;
  };
  const std::vector<Row> all_sequences = whole("sequence"), all_segments = whole("segment"), all_spans = whole("span");
  const auto part_of = [&](const char* dataset, const std::vector<Row>& all, std::int64_t first, std::int64_t n) {
    const std::int64_t size = static_cast<std::int64_t>(all.size());
    if (first < 0 || n < 0 || n > size || first > size - n)
      throw read_fault(at(dataset).on, fmt::format("{} rows", size),
                       fmt::format("{} rows from row {} on, as another table names", n, first));
    const std::span<const Row> rows =
        std::span(all).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n));
    for (const Row& row : rows)
      if (!sealed(row)) throw read_fault(at(dataset).on, "a row with a wrong checksum", "an undamaged file");
    return rows;
  };
  std::vector<Row> rows;  // announced ones stand first, before any other of the table
  for (const Row& row : all_sequences) {
    if (!sealed(row) || row[sequence_column::done] != 0) break;
    if (row[sequence_column::id] != rows.size())
      throw read_fault(at("sequence").on, fmt::format("sequence {} in row {}", row[sequence_column::id], rows.size()),
                       "announced sequences in order");
    rows.push_back(row);
  }
  out.resize(rows.size());
  for (const Row& commit : commits.seg) {
    const std::uint64_t id = commit[commit_column::sequence];
    const std::span<const Row> row =
        part_of("sequence", all_sequences, signed_at(commit, commit_column::sequence_row), 1);
    if (id >= rows.size() || row[0][sequence_column::id] != id || row[0][sequence_column::done] != 1)
      throw read_fault(at("sequence").on, fmt::format("no end of sequence {}", id), "the row its commit names");
    rows[id] = row[0];
    out[id].seg = &commit;
  }
  for (const Row& commit : commits.map)
    if (commit[commit_column::sequence] < out.size()) out[commit[commit_column::sequence]].map = &commit;

  const auto name_at = [&](std::uint64_t begin, std::uint64_t bytes) {
    if (begin > names.size() || bytes > names.size() - begin)
      throw read_fault(name + ": /span", "a name outside /names", "a place inside");
    return names.substr(begin, bytes);
  };
  for (std::size_t id = 0; id < rows.size(); ++id) {
    const Row& row = rows[id];
    SequenceInfo& info = out[id].info;
    info.id = static_cast<std::int64_t>(id);
    info.parent = signed_at(row, sequence_column::parent);
    info.fork_at = signed_at(row, sequence_column::fork_at);
    if (info.parent < -1 || info.parent >= info.id || info.fork_at < 0 || info.fork_at > (std::int64_t{1} << 40) ||
        (info.parent < 0 && info.fork_at != 0))
      throw read_fault(at("sequence").on,
                       fmt::format("sequence {} with parent {} and fork at {}", id, info.parent, info.fork_at),
                       "an earlier parent, or −1 and 0");
    out[id].next_token = signed_at(row, sequence_column::next_token);
    for (const Row& s : part_of("segment", all_segments, signed_at(row, sequence_column::first_segment),
                                signed_at(row, sequence_column::segments))) {
      const Segment segment{static_cast<Role>(std::min<std::uint64_t>(s[segment_column::role], 255)),
                            signed_at(s, segment_column::begin), signed_at(s, segment_column::end)};
      if (s[segment_column::sequence] != id || s[segment_column::role] > static_cast<std::uint64_t>(Role::generated) ||
          segment.begin < 0 || segment.end < segment.begin)
        throw read_fault(at("segment").on, fmt::format("a wrong segment of sequence {}", id),
                         "0 ≤ begin ≤ end and a known role");
      info.segments.push_back(segment);
    }
    for (const Row& s : part_of("span", all_spans, signed_at(row, sequence_column::first_span),
                                signed_at(row, sequence_column::spans))) {
      const Span span{name_at(s[span_column::kind], s[span_column::kind_bytes]), signed_at(s, span_column::begin),
                      signed_at(s, span_column::end), name_at(s[span_column::label], s[span_column::label_bytes])};
      if (s[span_column::sequence] != id || span.begin < 0 || span.end < span.begin)
        throw read_fault(at("span").on, fmt::format("a wrong span of sequence {}", id), "0 ≤ begin ≤ end");
      info.spans.push_back(span);
    }
    info.own_rows = signed_at(row, sequence_column::announced);  // for what was generated; replaced below
  }
  return out;
}

void Trace::State::read_sequences() {
  parts = announced_sequences();
  // Which sequence and position each committed row holds.
  const std::int64_t piece = 1 << 20;
  for (std::int64_t first = 0; first < commits.rows; first += piece) {
    const std::int64_t n = std::min(piece, commits.rows - first);
    const std::vector<std::byte> seq_bytes = small(Small::seq, first, n), pos_bytes = small(Small::pos, first, n);
    const std::int32_t* seq = reinterpret_cast<const std::int32_t*>(seq_bytes.data());
    const std::int64_t* pos = reinterpret_cast<const std::int64_t*>(pos_bytes.data());
    for (std::int64_t i = 0; i < n; ++i) {
      if (seq[i] < 0 || seq[i] >= static_cast<std::int64_t>(parts.size()))
        throw read_fault(at("seq").on, fmt::format("sequence {} in row {}", seq[i], first + i),
                         "an announced sequence");
      SequenceParts& one = parts[static_cast<std::size_t>(seq[i])];
      const std::int64_t next = one.own.empty() ? one.info.fork_at : one.own.back().position + one.own.back().n;
      if (pos[i] != next)
        throw read_fault(at("pos").on, fmt::format("position {} in row {}", pos[i], first + i),
                         fmt::format("position {}", next));
      if (!one.own.empty() && one.own.back().row + one.own.back().n == first + i)
        ++one.own.back().n;
      else
        one.own.push_back({pos[i], first + i, 1});
    }
  }
  for (SequenceParts& one : parts) {
    SequenceInfo& info = one.info;
    const std::int64_t announced_end = info.fork_at + info.own_rows;
    info.own_rows = 0;
    for (const Run& run : one.own) info.own_rows += run.n;
    if (info.own_rows == 0 && one.seg == nullptr) {
      info.segments.clear();
      info.spans.clear();
      continue;
    }
    info.tokens = info.fork_at + info.own_rows;
    std::int64_t covered = announced_end;
    for (Segment& s : info.segments) {
      covered = std::max(covered, s.end);
      s.begin = std::min(s.begin, info.tokens);
      s.end = std::min(s.end, info.tokens);
    }
    if (one.seg == nullptr && covered < info.tokens) info.segments.push_back({Role::generated, covered, info.tokens});
    while (!info.segments.empty() && info.segments.back().begin == info.segments.back().end) info.segments.pop_back();
    std::erase_if(info.spans, [&](const Span& s) { return s.end > info.tokens; });
    if (info.parent < 0) continue;
    const SequenceInfo& parent = parts[static_cast<std::size_t>(info.parent)].info;
    if (info.fork_at > parent.tokens)
      throw read_fault(
          at("sequence").on,
          fmt::format("sequence {} forking at {} from one of {} tokens", info.id, info.fork_at, parent.tokens),
          "a fork within its parent");
    std::vector<Span> spans;
    for (const Span& s : parent.spans)
      if (s.end <= info.fork_at) spans.push_back(s);
    info.spans.insert(info.spans.begin(), spans.begin(), spans.end());
    const bool whole = std::any_of(info.segments.begin(), info.segments.end(),
                                   [&](const Segment& s) { return s.begin < info.fork_at && s.end > s.begin; });
    if (whole) continue;
    std::vector<Segment> segments;
    for (Segment s : parent.segments) {
      s.end = std::min(s.end, info.fork_at);
      if (s.begin < info.fork_at) segments.push_back(s);
    }
    one.inherited = static_cast<std::int64_t>(segments.size());
    info.segments.insert(info.segments.begin(), segments.begin(), segments.end());
  }
  while (!parts.empty() && parts.back().info.own_rows == 0 && parts.back().seg == nullptr) parts.pop_back();
  for (const SequenceParts& one : parts) infos.push_back(one.info);

  if (layout.content.queries) {
    const std::vector<std::byte> bytes = small(Small::q_row, 0, commits.queries);
    q_row.resize(static_cast<std::size_t>(commits.queries));
    if (!q_row.empty()) std::memcpy(q_row.data(), bytes.data(), bytes.size());
    for (std::size_t i = 0; i < q_row.size(); ++i)
      if (q_row[i] < 0 || q_row[i] >= commits.rows || (i > 0 && q_row[i] <= q_row[i - 1]))
        throw read_fault(at("q_row").on, fmt::format("row {} at {}", q_row[i], i), "ascending rows of the file");
  }
}

void Trace::State::load(bool walk) {
  file = hdf5::open_file(path.string());
  open_header();
  open_datasets();
  if (walk)
    for (const auto& [dataset_name, dataset] : datasets)
      hdf5::walk_chunk_index(dataset, static_cast<std::int64_t>(std::filesystem::file_size(path)));
  read_commits();
  read_sequences();
}

Trace::Trace(std::unique_ptr<State> state) : state_(std::move(state)) {}
Trace::~Trace() = default;

std::shared_ptr<const Trace> Trace::open(const std::filesystem::path& path, const OpenOptions& options) {
  check_is_hdf5(path);
  const auto fresh = [&] {
    auto state = std::make_unique<State>();
    state->path = path;
    state->name = path.filename().string();
    state->options = options;
    return state;
  };
  if (options.probe) probe_in_child(path.filename().string(), [&] { fresh()->load(true); });
  std::unique_ptr<State> state = fresh();
  state->load(false);
  return std::shared_ptr<const Trace>(new Trace(std::move(state)));
}

}  // namespace kvgrind::traces
