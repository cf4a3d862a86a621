// A build without CUDA: nothing is ever on a device, so this is never reached.
#include "core/error.h"
#include "kernels/logits/logits_cuda.h"

namespace kvgrind::kernels {

void summarise_logits_cuda(const LogitSummary&, DeviceStream) {
  throw Error(Category::unavailable, {.doing = "summarising logits",
                                      .on = "a CUDA device",
                                      .found = "a program built without CUDA",
                                      .next = "use --device cpu, or build with the CUDA Toolkit"});
}

}  // namespace kvgrind::kernels
