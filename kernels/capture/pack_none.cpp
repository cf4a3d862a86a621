// A build without CUDA: no device is there.
#include "core/error.h"
#include "kernels/capture/pack.h"

namespace kvgrind::kernels {

void pack_rows_on_device(void*, const PackRows&, DeviceStream) {
  throw Error(Category::unavailable, {.doing = "packing rows on a device",
                                      .on = "a CUDA device",
                                      .found = "a program built without CUDA",
                                      .next = "build with the CUDA Toolkit (cmake -DKVGRIND_CUDA=ON)"});
}

}  // namespace kvgrind::kernels
