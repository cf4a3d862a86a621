// A build without CUDA: nothing is ever on a device, so this is never reached.
#include "core/error.h"
#include "kernels/attention/attention_cuda.h"

namespace kvgrind::kernels {
namespace {

[[noreturn]] void refuse(const char* doing) {
  throw Error(Category::unavailable, {.doing = doing,
                                      .on = "a CUDA device",
                                      .found = "a program built without CUDA",
                                      .next = "use --device cpu, or build with the CUDA Toolkit"});
}

}  // namespace

void attention_prefill_cuda(const AttentionPrefill&, DeviceStream) { refuse("computing attention"); }
void attention_probabilities_cuda(const AttentionProbabilities&, DeviceStream) { refuse("computing attention"); }
void column_sums_cuda(const ColumnSums&, DeviceStream) { refuse("summing attention"); }
void pooled_map_cuda(const PooledMap&, DeviceStream) { refuse("pooling attention"); }

}  // namespace kvgrind::kernels
