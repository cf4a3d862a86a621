// A build without CUDA: nothing is ever on a device, so this is never reached.
#include "core/error.h"
#include "kernels/attention/attention_cuda.h"

namespace kvgrind::kernels {

void attention_prefill_cuda(const AttentionPrefill&, DeviceStream) {
  throw Error(Category::unavailable, {.doing = "computing attention on a CUDA device",
                                      .found = "a program built without CUDA",
                                      .next = "use --device cpu, or build with the CUDA Toolkit"});
}

void column_sums_cuda(const ColumnSums&, DeviceStream) {
  throw Error(Category::unavailable, {.doing = "summing attention on a CUDA device",
                                      .found = "a program built without CUDA",
                                      .next = "use --device cpu, or build with the CUDA Toolkit"});
}

}  // namespace kvgrind::kernels
