// Where a command writes: data on stdout, everything said to a person on stderr.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"

namespace kvgrind::program {

struct ConsoleOptions {
  bool quiet = false;  // errors only
  bool verbose = false;
  bool json = false;           // data as one JSON document
  std::string color = "auto";  // auto | always | never; NO_COLOR counts for auto
};

class Console {
 public:
  Console(const ConsoleOptions& options, CancelToken cancel);
  ~Console();

  bool json() const { return options_.json; }
  bool quiet() const { return options_.quiet; }
  bool color() const { return color_; }                // of stdout
  bool one_terminal() const { return one_terminal_; }  // stdout and stderr are read by the same eyes
  const CancelToken& cancel() const { return cancel_; }

  // stdout. A reader that went away (head, a closed pager) ends the output, not the work: see reader_gone().
  // Error(write) for a full disk and the like.
  void data(std::string_view text);
  void document(std::string_view schema, json::object body);  // with "schema": "kvgrind.<schema>.1" in front
  bool reader_gone() const { return reader_gone_; }
  void finish();  // flushes stdout

  // stderr
  void note(std::string_view line);
  void warn(std::string_view line);
  void detail(std::string_view line);  // with --verbose only
  void error(const Error& error);

  // A bar on a terminal, else a line every 10 s; null with --quiet.
  Progress* progress();
  void end_progress();

 private:
  class Meter;
  void could_not_write();  // by errno: Error(write), or the reader is gone
  ConsoleOptions options_;
  CancelToken cancel_;
  bool color_ = false, color_stderr_ = false, one_terminal_ = false, reader_gone_ = false;
  std::unique_ptr<Meter> meter_;
};

// Text columns: widths by the widest cell, numbers right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  std::string text() const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

std::string bytes_text(double bytes);  // "6.3 MB"

}  // namespace kvgrind::program
