// A build without CUDA: no device is there.
#include <fmt/format.h>

#include "core/error.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {
namespace {

[[noreturn]] void refuse(int device) {
  throw Error(Category::unavailable,
              {.doing = "choosing a device",
               .on = fmt::format("cuda:{}", device),
               .found = "a program built without CUDA",
               .next = "use --device cpu, or build with the CUDA Toolkit (cmake -DKVGRIND_CUDA=ON)"});
}

}  // namespace

bool built_with_cuda() { return false; }
int device_count() { return 0; }
DeviceInfo device_info(int device) { refuse(device); }
void use_device(int device) { refuse(device); }

}  // namespace kvgrind::kernels
