// A build without CUDA: nothing is ever on a device, so this is never reached.
#include "core/error.h"
#include "kernels/rope/rope_cuda.h"

namespace kvgrind::kernels {

void rope_table_cuda(const RopeTable&, DeviceStream) {
  throw Error(Category::unavailable, {.doing = "computing rotary angles",
                                      .on = "a CUDA device",
                                      .found = "a program built without CUDA",
                                      .next = "use --device cpu, or build with the CUDA Toolkit"});
}

}  // namespace kvgrind::kernels
