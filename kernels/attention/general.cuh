// The general attention kernel (fp32 arithmetic, any head_dim ≤ 256), for what the tensor-core kernel does not take.
#pragma once
#include "kernels/attention/attention_cuda.h"

namespace kvgrind::kernels {

void attention_general(const AttentionPrefill& params, DeviceStream stream);
void column_sums_general(const ColumnSums& params, DeviceStream stream);
void attention_decode_general(const AttentionDecode& params, DeviceStream stream);

}  // namespace kvgrind::kernels
