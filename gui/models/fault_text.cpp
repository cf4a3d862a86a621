#include "gui/models/fault_text.h"

#include <fmt/format.h>

#include <cctype>

#include "core/version.h"

namespace kvgrind::gui {
namespace {

std::string sentence(std::string text) {
  if (text.empty()) return text;
  text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text.back() == '.' ? text : text + ".";
}

}  // namespace

FaultText fault_text(const Error& error) {
  const Fault& f = error.fault();
  FaultText out;
  out.headline = sentence(f.on.empty() ? f.doing + " failed" : f.doing + " " + f.on + " failed");
  // A caret below a policy line needs its own lines: the details have it.
  std::string why =
      f.found.empty() ? std::string(category_name(error.category())) : "found " + f.found.substr(0, f.found.find('\n'));
  if (!f.expected.empty()) why += ", expected " + f.expected.substr(0, f.expected.find('\n'));
  out.parts = {{"Why", sentence(why)},
               {"Still usable", sentence(f.usable.empty() ? "everything else that is open" : f.usable)},
               {"Next", sentence(f.next.empty() ? "open another file, or copy the details for a report" : f.next)}};
  out.details = fmt::format("{}\n{}:{}\nkvgrind {} ({})\n", error.what(), error.where().file_name(),
                            error.where().line(), version(), git_hash());
  return out;
}

FaultText fault_text(const std::string& doing, const std::string& what) {
  return fault_text(Error(Category::unavailable, {.doing = doing, .found = what}));
}

}  // namespace kvgrind::gui
