#include "traces/results/results_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/handle.h"

namespace kvgrind::traces {
namespace {

using File = Handle<int, ::close, -1>;

std::string errno_text() { return std::strerror(errno); }

File open_for_reading(const std::filesystem::path& path, const ResultsLimits& limits) {
  // O_NONBLOCK: a FIFO must not hang us; it is refused below.
  File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file)
    throw Error(
        Category::missing,
        {.doing = "opening results", .on = path.string(), .found = errno_text(), .expected = "a readable file"});
  struct stat info {};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode))
    throw Error(Category::missing, {.doing = "opening results",
                                    .on = path.string(),
                                    .found = S_ISDIR(info.st_mode) ? "a directory" : "no regular file",
                                    .expected = "a file of JSON lines"});
  if (info.st_size > limits.max_file_bytes)
    throw Error(Category::damaged, {.doing = "opening results",
                                    .on = path.string(),
                                    .found = fmt::format("{} bytes", info.st_size),
                                    .expected = fmt::format("at most {}", limits.max_file_bytes)});
  return file;
}

void take_line(ResultsContent& out, std::string_view line, const std::string& where, const ResultsLimits& limits) {
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
  const json::value value = parse_json(line, where, {.max_bytes = static_cast<std::size_t>(limits.max_line_bytes)});
  if (!value.is_object())
    throw Error(Category::damaged, {.doing = "reading results",
                                    .on = where,
                                    .found = "a JSON value that is no object",
                                    .expected = "one object a line"});
  const json::object& object = value.as_object();
  const json::value* type = object.if_contains("type");
  if (type && type->is_string() && type->as_string() == "run") {
    out.runs.push_back(object);
  } else if (type && type->is_string() && type->as_string() == "result") {
    out.rows.push_back(result_row_from_json(object, where));
  } else {
    throw Error(Category::damaged, {.doing = "reading results",
                                    .on = where,
                                    .found = type ? "an unknown `type`" : "no key `type`",
                                    .expected = "`run` or `result`",
                                    .next = "is this a file that kvgrind wrote?"});
  }
  if (static_cast<std::int64_t>(out.rows.size() + out.runs.size()) > limits.max_rows)
    throw Error(Category::damaged, {.doing = "reading results",
                                    .on = where,
                                    .found = "more rows",
                                    .expected = fmt::format("at most {}", limits.max_rows)});
}

void read_into(ResultsContent& out, const std::filesystem::path& path, const ResultsLimits& limits) {
  const File file = open_for_reading(path, limits);
  std::string pending;
  std::vector<char> buffer(1 << 20);
  std::int64_t line = 1;
  out.good_bytes = 0;
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(Category::missing, {.doing = "reading results", .on = path.string(), .found = errno_text()});
    if (n == 0) break;
    std::string_view piece(buffer.data(), static_cast<std::size_t>(n));
    for (std::size_t end = piece.find('\n'); end != std::string_view::npos; end = piece.find('\n')) {
      pending.append(piece.substr(0, end));
      out.good_bytes += static_cast<std::int64_t>(pending.size()) + 1;
      take_line(out, pending, fmt::format("{}, line {}", path.string(), line++), limits);
      pending.clear();
      piece.remove_prefix(end + 1);
    }
    pending.append(piece);
    if (static_cast<std::int64_t>(pending.size()) > limits.max_line_bytes)
      throw Error(Category::damaged, {.doing = "reading results",
                                      .on = fmt::format("{}, line {}", path.string(), line),
                                      .found = fmt::format("more than {} bytes without an end", limits.max_line_bytes),
                                      .expected = "JSON lines"});
  }
  out.ragged_bytes = static_cast<std::int64_t>(pending.size());
}

// What replacing may take away: results or an empty file, and a link to a file rather than what it leads to. Pipes and
// devices stay and are written to.
void make_room(const std::filesystem::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) return;
  if (::lstat(path.c_str(), &info) != 0) return;
  if (S_ISREG(info.st_mode)) {
    const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    char first = '{';
    if (file && ::read(file.get(), &first, 1) == 1 && first != '{')
      throw Error(Category::write, {.doing = "replacing results",
                                    .on = path.string(),
                                    .found = "a file that holds something else",
                                    .expected = "results of an earlier run",
                                    .next = "give another name, or remove it yourself"});
  }
  ::unlink(path.c_str());
}

}  // namespace

ResultsContent read_results(const std::filesystem::path& path, const ResultsLimits& limits) {
  ResultsContent out;
  read_into(out, path, limits);
  return out;
}

ResultsContent read_results(const std::vector<std::filesystem::path>& paths, const ResultsLimits& limits) {
  ResultsContent out;
  std::int64_t ragged = 0;
  for (const auto& path : paths) {
    read_into(out, path, limits);
    ragged += out.ragged_bytes;
  }
  out.ragged_bytes = ragged;
  return out;
}

struct ResultsWriter::State {
  std::filesystem::path path;
  File file;
  [[noreturn]] void failed(const char* doing) const {
    throw Error(Category::write,
                {.doing = doing, .on = path.string(), .found = errno_text(), .usable = "the lines written before"});
  }
};

ResultsWriter::ResultsWriter(const std::filesystem::path& path, Mode mode) : state_(std::make_unique<State>()) {
  state_->path = path;
  if (mode == Mode::resume) {
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored)) {
      const ResultsContent content = read_results(path);
      if (content.ragged_bytes > 0 && ::truncate(path.c_str(), content.good_bytes) != 0)
        state_->failed("dropping the cut-off last line");
    }
  }
  if (mode == Mode::replace) make_room(path);
  const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | (mode == Mode::create ? O_EXCL : 0);
  state_->file = File(::open(path.c_str(), flags, 0644));
  if (!state_->file) {
    if (errno == EEXIST)
      throw Error(Category::write, {.doing = "creating results",
                                    .on = path.string(),
                                    .found = "the file exists",
                                    .next = "use --resume to go on with it or --force to replace it"});
    state_->failed("creating results");
  }
}

ResultsWriter::~ResultsWriter() = default;

void ResultsWriter::write(const json::object& line) {
  std::string text = json_text(line);
  text.push_back('\n');
  // One write per line: readers and a kill see whole lines or a ragged last one.
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(state_->file.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) state_->failed("writing results");
    done += static_cast<std::size_t>(n);
  }
}

void ResultsWriter::close() {
  if (!state_->file) return;
  const bool synced = ::fsync(state_->file.get()) == 0 || errno == EINVAL || errno == EROFS;  // pipes cannot sync
  const bool closed = ::close(state_->file.release()) == 0;
  if (!synced || !closed) state_->failed("closing results");
}

}  // namespace kvgrind::traces
