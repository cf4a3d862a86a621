// Which device a recording runs on. This build's runtime is the CPU's; a CUDA one would answer here.
#include <fmt/format.h>

#include "core/error.h"
#include "replay/record/record.h"

namespace kvgrind::replay {

std::string resolve_device(std::string_view asked) {
  if (asked == "auto" || asked == "cpu") return "cpu";
  if (asked == "cuda" || asked.starts_with("cuda:"))
    throw Error(Category::unavailable, {.doing = "choosing a device",
                                        .on = std::string(asked),
                                        .found = "a runtime built without CUDA",
                                        .expected = "cpu",
                                        .next = "use --device auto, or record through the PyTorch hook on the GPU"});
  throw Error(Category::usage, {.doing = "choosing a device",
                                .on = std::string(asked),
                                .found = "an unknown name",
                                .expected = "auto, cpu or cuda:N"});
}

}  // namespace kvgrind::replay
