// An error as five parts in plain words: what failed, on what, why, what is still usable, what to do next.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"

namespace kvgrind::gui {

struct FaultText {
  std::string headline;                                    // what failed, on which file or job
  std::vector<std::pair<std::string, std::string>> parts;  // "Why", "Still usable", "Next"
  std::string details;                                     // for "Copy details"
};
FaultText fault_text(const Error& error);
FaultText fault_text(const std::string& doing, const std::string& what);  // anything but an Error

}  // namespace kvgrind::gui
