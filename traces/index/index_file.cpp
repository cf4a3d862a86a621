#include "traces/index/index_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/hash.h"
#include "traces/kvt/schema.h"

namespace kvgrind::traces {
namespace {

constexpr std::uint64_t magic = 0x5845444e4947564bull;  // "KVGINDEX"
constexpr std::uint64_t version = 1;
constexpr std::int64_t most_sequences = 1 << 20, most_heads = 1 << 14;

std::int64_t triangle(std::int64_t side) { return side * (side + 1) / 2; }

std::uint64_t number_of(const std::string& hash) { return std::strtoull(hash.c_str(), nullptr, 16); }

std::vector<std::uint64_t> header_words(const IndexLayout& layout) {
  std::vector<std::uint64_t> words{magic,
                                   version,
                                   number_of(layout.trace_hash),
                                   static_cast<std::uint64_t>(layout.layers),
                                   static_cast<std::uint64_t>(layout.query_heads),
                                   static_cast<std::uint64_t>(layout.sequences.size())};
  for (const IndexedSequence& s : layout.sequences)
    for (const std::int64_t value : {s.id, s.tokens, s.cell, s.side})
      words.push_back(static_cast<std::uint64_t>(value));
  words.push_back(hash_bytes(words.data(), words.size() * 8));
  return words;
}

std::int64_t map_bytes(const IndexedSequence& s) { return 2 * triangle(s.side) + 8; }

[[noreturn]] void damaged(const std::string& on, const std::string& found) {
  throw Error(Category::damaged, {.doing = "reading the index",
                                  .on = on,
                                  .found = found,
                                  .expected = "an index of this trace",
                                  .usable = "the trace itself",
                                  .next = "make it again: `kvgrind index --force`"});
}

[[noreturn]] void cannot_write(const std::string& on, const std::string& found) {
  throw Error(Category::write, {.doing = "writing the index", .on = on, .found = found, .expected = "a writable file"});
}

}  // namespace

std::int64_t index_cell(std::int64_t tokens) {
  std::int64_t cell = index_least_cell;
  while (cell * index_side < tokens) cell *= 2;
  return cell;
}

std::filesystem::path index_path(const std::filesystem::path& trace) { return trace.string() + ".index"; }

struct IndexWriter::State {
  std::filesystem::path path, part;
  int file = -1;
  void put(const void* data, std::size_t n) const {
    const char* at = static_cast<const char*>(data);
    while (n > 0) {
      const ssize_t done = ::write(file, at, n);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) cannot_write(part.string(), std::strerror(errno));
      at += done;
      n -= static_cast<std::size_t>(done);
    }
  }
};

IndexWriter::IndexWriter(const std::filesystem::path& path, const IndexLayout& layout, bool force)
    : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->part = path.string() + ".part";
  std::error_code ignored;
  if (!force && std::filesystem::exists(path, ignored))
    throw Error(Category::write, {.doing = "writing the index",
                                  .on = path.string(),
                                  .found = "a file that is there already",
                                  .expected = "none",
                                  .next = "--force replaces it"});
  state_->file = ::open(state_->part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (state_->file < 0) cannot_write(state_->part.string(), std::strerror(errno));
  const std::vector<std::uint64_t> words = header_words(layout);
  state_->put(words.data(), words.size() * 8);
}

IndexWriter::~IndexWriter() {
  if (state_->file < 0) return;
  ::close(state_->file);  // not closed properly: what is there is of no use
  ::unlink(state_->part.c_str());
}

void IndexWriter::write(const IndexMap& map) {
  const std::int64_t side = map.max.extent(0);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(2 * triangle(side)));
  std::size_t at = 0;
  for (const Array<float, 2>* values : {&map.max, &map.mean})
    for (std::int64_t r = 0; r < side; ++r)
      for (std::int64_t c = 0; c <= r; ++c) codes[at++] = quantise_attention((*values)(r, c));
  const std::uint64_t sum = hash_bytes(codes.data(), codes.size());
  state_->put(codes.data(), codes.size());
  state_->put(&sum, 8);
}

void IndexWriter::close() {
  const int file = state_->file;
  state_->file = -1;
  const bool failed = ::fsync(file) != 0;
  if (::close(file) != 0 || failed) cannot_write(state_->part.string(), std::strerror(errno));
  std::error_code error;
  std::filesystem::rename(state_->part, state_->path, error);
  if (error) cannot_write(state_->path.string(), error.message());
}

struct IndexFile::State {
  std::string on;
  int file = -1;
  IndexLayout layout;
  std::vector<std::int64_t> first_byte;  // per sequence
  void get(void* data, std::size_t n, std::int64_t offset) const {
    char* at = static_cast<char*>(data);
    while (n > 0) {
      const ssize_t done = ::pread(file, at, n, offset);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) damaged(on, done < 0 ? std::strerror(errno) : "the end of the file");
      at += done;
      offset += done;
      n -= static_cast<std::size_t>(done);
    }
  }
};

IndexFile::IndexFile() : state_(std::make_unique<State>()) {}
IndexFile::~IndexFile() {
  if (state_->file >= 0) ::close(state_->file);
}
const IndexLayout& IndexFile::layout() const { return state_->layout; }

std::shared_ptr<const IndexFile> IndexFile::open(const std::filesystem::path& path, const std::string& trace_hash) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return nullptr;
  std::shared_ptr<IndexFile> out(new IndexFile);
  State& s = *out->state_;
  s.on = path.string();
  if (!std::filesystem::is_regular_file(path, ignored)) damaged(s.on, "something that is no file");
  s.file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (s.file < 0)
    throw Error(
        Category::missing,
        {.doing = "reading the index", .on = s.on, .found = std::strerror(errno), .usable = "the trace itself"});
  std::array<std::uint64_t, 6> head{};
  s.get(head.data(), sizeof head, 0);
  if (head[0] != magic || head[1] != version) damaged(s.on, "another kind of file, or another version");
  if (head[2] != number_of(trace_hash)) damaged(s.on, fmt::format("the index of trace {:016x}", head[2]));
  if (head[3] > most_heads || head[4] > most_heads || head[5] > most_sequences) damaged(s.on, "impossible counts");
  s.layout = {.trace_hash = trace_hash,
              .layers = static_cast<std::int64_t>(head[3]),
              .query_heads = static_cast<std::int64_t>(head[4]),
              .sequences = {}};
  std::vector<std::uint64_t> words(6 + 4 * head[5] + 1);
  s.get(words.data(), words.size() * 8, 0);
  if (hash_bytes(words.data(), (words.size() - 1) * 8) != words.back()) damaged(s.on, "a header with a wrong checksum");
  std::int64_t at = static_cast<std::int64_t>(words.size()) * 8;
  for (std::size_t i = 0; i < head[5]; ++i) {
    const auto word = [&](std::size_t k) { return static_cast<std::int64_t>(words[6 + 4 * i + k]); };
    const IndexedSequence one{.id = word(0), .tokens = word(1), .cell = word(2), .side = word(3)};
    if (one.side < 0 || one.side > index_side || one.cell < 1 || one.cell > (1ll << 40))
      damaged(s.on, "impossible sizes");
    s.layout.sequences.push_back(one);
    s.first_byte.push_back(at);
    at += s.layout.layers * s.layout.query_heads * map_bytes(one);
  }
  if (std::filesystem::file_size(path, ignored) != static_cast<std::uintmax_t>(at)) damaged(s.on, "a file cut short");
  return out;
}

std::optional<IndexMap> IndexFile::map(std::int64_t sequence, std::int64_t layer, std::int64_t query_head) const {
  const State& s = *state_;
  if (layer < 0 || layer >= s.layout.layers || query_head < 0 || query_head >= s.layout.query_heads)
    return std::nullopt;
  for (std::size_t i = 0; i < s.layout.sequences.size(); ++i) {
    const IndexedSequence& one = s.layout.sequences[i];
    if (one.id != sequence) continue;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(map_bytes(one)));
    s.get(codes.data(), codes.size(), s.first_byte[i] + (layer * s.layout.query_heads + query_head) * map_bytes(one));
    std::uint64_t sum = 0;
    std::memcpy(&sum, codes.data() + codes.size() - 8, 8);
    if (hash_bytes(codes.data(), codes.size() - 8) != sum)
      damaged(s.on, fmt::format("a wrong checksum of layer {}, head {}", layer, query_head));
    IndexMap out{
        .cell = one.cell, .max = Array<float, 2>({one.side, one.side}), .mean = Array<float, 2>({one.side, one.side})};
    std::size_t at = 0;
    for (Array<float, 2>* values : {&out.max, &out.mean})
      for (std::int64_t r = 0; r < one.side; ++r)
        for (std::int64_t c = 0; c <= r; ++c) (*values)(r, c) = dequantise_attention(codes[at++]);
    return out;
  }
  return std::nullopt;
}

}  // namespace kvgrind::traces
