#include "core/error.h"

namespace kvgrind {

int exit_code(Category category) {
  switch (category) {
    case Category::jobs_failed: return 1;
    case Category::usage: return 2;
    case Category::missing: return 3;
    case Category::damaged: return 4;
    case Category::write: return 5;
    case Category::threshold: return 6;
    case Category::unavailable: return 7;
    case Category::interrupted: return 130;
  }
  return 1;
}

const char* category_name(Category category) {
  switch (category) {
    case Category::jobs_failed: return "jobs failed";
    case Category::usage: return "usage";
    case Category::missing: return "missing input";
    case Category::damaged: return "damaged or unsupported input";
    case Category::write: return "cannot write";
    case Category::threshold: return "check failed";
    case Category::unavailable: return "unavailable";
    case Category::interrupted: return "interrupted";
  }
  return "unknown";
}

std::string message_text(const Fault& fault) {
  std::string text = fault.doing;
  if (!fault.on.empty()) text += (text.empty() ? "" : " ") + fault.on;
  std::string rest;
  const auto add = [&rest](const std::string& part, const char* before, const char* joint) {
    if (part.empty()) return;
    if (!rest.empty()) rest += joint;
    rest += before + part;
  };
  add(fault.found, "found ", ", ");
  add(fault.expected, "expected ", ", ");
  add(fault.usable, "", "; ");
  add(fault.next, "", "; ");
  if (text.empty()) return rest;
  return rest.empty() ? text : text + ": " + rest;
}

Error::Error(Category category, Fault fault, std::source_location where)
    : std::runtime_error(message_text(fault)), category_(category), fault_(std::move(fault)), where_(where) {}

}  // namespace kvgrind
