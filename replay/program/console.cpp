#include "replay/program/console.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace kvgrind::program {
namespace {

void put(std::FILE* file, std::string_view text) { (void)std::fwrite(text.data(), 1, text.size(), file); }

// Display width of UTF-8 text: code points, which is right for what we print.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

// A terminal that moves its cursor; `dumb` ones take lines only.
bool lively(int fd) {
  const char* term = std::getenv("TERM");
  return isatty(fd) == 1 && !(term && std::strcmp(term, "dumb") == 0);
}

// The first `columns` code points of UTF-8 text.
std::string cut(const std::string& text, std::size_t columns) {
  std::size_t seen = 0;
  for (std::size_t i = 0; i < text.size(); ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80 && seen++ == columns) return text.substr(0, i);
  return text;
}

// Columns of the terminal behind stderr, one left free so that nothing wraps.
std::size_t terminal_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79u;
}

bool numeric(std::string_view cell) {
  return !cell.empty() &&
         (std::isdigit(static_cast<unsigned char>(cell[0])) ||
          ((cell[0] == '-' || cell[0] == '+') && cell.size() > 1 && std::isdigit(static_cast<unsigned char>(cell[1]))));
}

}  // namespace

// Progress on stderr.
class Console::Meter final : public Progress {
 public:
  explicit Meter(bool terminal) : terminal_(terminal) {}

  void update(std::string_view phase, std::int64_t done, std::int64_t total) override {
    const Clock::time_point now = Clock::now();
    if (phase != phase_) {
      end();
      phase_ = phase;
      began_ = last_ = now;
      first_done_ = done;
      if (!terminal_) return;
    }
    if (now - last_ < (terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10000)) &&
        !(terminal_ && done == total))
      return;
    last_ = now;
    put(stderr,
        terminal_ ? "\r\033[K" + cut(line(done, total, now), terminal_columns()) : line(done, total, now) + "\n");
    std::fflush(stderr);
    drawn_ = terminal_;
  }
  void end() {
    if (drawn_) put(stderr, "\r\033[K");
    drawn_ = false;
    phase_.clear();
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::string line(std::int64_t done, std::int64_t total, Clock::time_point now) const {
    const double seconds = std::chrono::duration<double>(now - began_).count();
    const double rate = seconds > 0 ? static_cast<double>(done - first_done_) / seconds : 0;
    std::string text = fmt::format("{}: {}/{}", phase_, done, total);
    if (terminal_ && total > 0) {
      const int full = static_cast<int>(24 * std::min(done, total) / total);
      text += fmt::format(" [{}{}]", std::string(static_cast<std::size_t>(full), '='),
                          std::string(static_cast<std::size_t>(24 - full), ' '));
    }
    if (rate > 0) {
      text += fmt::format(" {:.3g}/s", rate);
      if (done < total) text += fmt::format(", {:.0f} s left", std::ceil(static_cast<double>(total - done) / rate));
    }
    return text;
  }

  bool terminal_;
  bool drawn_ = false;
  std::string phase_;
  Clock::time_point began_, last_;
  std::int64_t first_done_ = 0;
};

Console::Console(const ConsoleOptions& options, CancelToken cancel) : options_(options), cancel_(std::move(cancel)) {
  const char* no_color = std::getenv("NO_COLOR");
  const bool plain = no_color && *no_color;
  const auto wants = [&](int fd) {
    return options.color == "always" || (options.color == "auto" && !plain && lively(fd));
  };
  color_ = wants(STDOUT_FILENO);
  color_stderr_ = wants(STDERR_FILENO);
  one_terminal_ = isatty(STDOUT_FILENO) == 1 && isatty(STDERR_FILENO) == 1;
}
Console::~Console() { end_progress(); }

void Console::data(std::string_view text) {
  if (reader_gone_) return;
  end_progress();
  // Flushed at once: messages on the same terminal or pipe follow what they speak of.
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return;
  could_not_write();
}

void Console::document(std::string_view schema, json::object body) {
  json::object whole;
  whole["schema"] = fmt::format("kvgrind.{}.1", schema);
  for (auto& entry : body) whole[entry.key()] = std::move(entry.value());
  data(json_text(whole) + "\n");
}

void Console::finish() {
  if (reader_gone_ || std::fflush(stdout) == 0) return;
  could_not_write();
}

// A reader that has seen enough is no error.
void Console::could_not_write() {
  if (errno == EPIPE) {
    reader_gone_ = true;
    return;
  }
  throw Error(Category::write, {.doing = "writing to",
                                .on = "standard output",
                                .found = std::strerror(errno),
                                .expected = "room for the output"});
}

void Console::note(std::string_view line) {
  if (options_.quiet) return;
  end_progress();
  put(stderr, fmt::format("{}\n", line));
}
void Console::warn(std::string_view line) {
  if (options_.quiet) return;
  end_progress();
  put(stderr, color_stderr_ ? fmt::format("\033[33mwarning:\033[0m {}\n", line) : fmt::format("warning: {}\n", line));
}
void Console::detail(std::string_view line) {
  if (options_.verbose) note(line);
}

void Console::error(const Error& error) {
  end_progress();
  const Fault& fault = error.fault();
  const char* red = color_stderr_ ? "\033[31m" : "";
  const char* plain = color_stderr_ ? "\033[0m" : "";
  std::string text =
      fmt::format("{}kvgrind:{} {}{}{}\n", red, plain, fault.doing, fault.on.empty() ? "" : " ", fault.on);
  const auto part = [&](const char* name, const std::string& value) {
    if (!value.empty()) text += fmt::format("  {:<9} {}\n", name, value);
  };
  part("found:", fault.found);
  part("expected:", fault.expected);
  part("usable:", fault.usable);
  part("next:", fault.next);
  if (options_.verbose) part("thrown:", fmt::format("{}:{}", error.where().file_name(), error.where().line()));
  put(stderr, text);
}

Progress* Console::progress() {
  if (options_.quiet) return nullptr;
  if (!meter_) meter_ = std::make_unique<Meter>(lively(STDERR_FILENO));
  return meter_.get();
}
void Console::end_progress() {
  if (meter_) meter_->end();
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  const auto measure = [&](const std::vector<std::string>& cells) {
    widths.resize(std::max(widths.size(), cells.size()));
    for (std::size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], width(cells[i]));
  };
  measure(header_);
  for (const auto& cells : rows_) measure(cells);

  std::string out;
  const auto print = [&](const std::vector<std::string>& cells, const std::vector<std::string>& like) {
    std::string line;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const std::string pad(widths[i] - width(cells[i]), ' ');
      const bool right = i < like.size() && numeric(like[i]);
      line += (i ? "  " : "") + (right ? pad + cells[i] : cells[i] + pad);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  if (!header_.empty()) print(header_, rows_.empty() ? header_ : rows_.front());
  for (const auto& cells : rows_) print(cells, cells);
  return out;
}

std::string bytes_text(double bytes) {
  const char* unit = "B";
  for (const char* next : {"kB", "MB", "GB", "TB"}) {
    if (bytes < 1000) break;
    bytes /= 1000;
    unit = next;
  }
  return *unit == 'B' ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.3g} {}", bytes, unit);
}

}  // namespace kvgrind::program
