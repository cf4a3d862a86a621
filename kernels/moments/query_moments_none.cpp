// A build without CUDA: nothing is ever on a device, so this is never reached.
#include "core/error.h"
#include "kernels/moments/query_moments_cuda.h"

namespace kvgrind::kernels {

void query_moments_cuda(const QueryMomentSums&, DeviceStream) {
  throw Error(Category::unavailable, {.doing = "summing moments of queries",
                                      .on = "a CUDA device",
                                      .found = "a program built without CUDA",
                                      .next = "use --device cpu, or build with the CUDA Toolkit"});
}

}  // namespace kvgrind::kernels
