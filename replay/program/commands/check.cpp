// kvgrind check: whether traces are whole.
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "replay/program/command.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::vector<std::string> files;
  bool deep = false;
};

int run(const Asked& asked, Console& console) {
  int code = 0;
  json::array reports;
  for (const std::string& file : asked.files) {
    console.cancel().throw_if_cancelled();
    json::object report;
    report["file"] = file;
    try {
      const traces::CheckReport found = traces::check_trace(file, asked.deep);
      report["ok"] = found.ok;
      report["findings"] = json::array(found.findings.begin(), found.findings.end());
      report["details"] = found.details;
      if (!found.ok) code = std::max(code, exit_code(Category::threshold));
      if (!console.json()) {
        console.data(fmt::format("{}: {}\n", file, found.ok ? "ok" : "not ok"));
        for (const std::string& finding : found.findings) console.data(fmt::format("  {}\n", finding));
      }
    } catch (const Error& error) {  // one bad file never stops the others; the first bad one names the exit code
      if (asked.files.size() == 1) throw;
      report["ok"] = false;
      report["findings"] = json::array{json::string(error.what())};
      if (code == 0) code = exit_code(error.category());
      if (!console.json()) console.data(fmt::format("{}: not ok\n  {}\n", file, error.what()));
    }
    reports.push_back(std::move(report));
  }
  if (console.json()) {
    json::object body;
    body["files"] = std::move(reports);
    console.document("check", std::move(body));
  }
  return code;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positionals("file", asked->files, "traces");
  options.flag("--deep", asked->deep, "read every value: checksums, NaN and infinities, attention mass");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command check;
const Command check{.name = "check",
                    .place = 21,
                    .summary = "check traces: structure, checksums, values",
                    .text = "Exits 6 when a trace is not as it should be.",
                    .examples = {"kvgrind check run.kvt", "kvgrind check --deep run.kvt one.kvt"},
                    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
