// Which device a recording runs on.
#include "kernels/device/device.h"

#include <fmt/format.h>

#include <charconv>

#include "core/error.h"
#include "replay/record/record.h"

namespace kvgrind::replay {

std::string resolve_device(std::string_view asked) {
  if (asked == "cpu") return "cpu";
  if (asked == "auto") return kernels::device_count() > 0 ? "cuda:0" : "cpu";
  int number = 0;
  if (asked.starts_with("cuda:")) {
    const std::string_view digits = asked.substr(5);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size()) number = -1;
  } else if (asked != "cuda") {
    number = -1;
  }
  if (number < 0)
    throw Error(Category::usage, {.doing = "choosing a device",
                                  .on = std::string(asked),
                                  .found = "an unknown name",
                                  .expected = "auto, cpu or cuda:N"});
  kernels::device_info(number);  // throws when it is not there
  return fmt::format("cuda:{}", number);
}

}  // namespace kvgrind::replay
