#include "kernels/attention/attention.h"

namespace kvgrind::kernels {

void attention(const AttentionParams& params) { attention_ref(params); }

}  // namespace kvgrind::kernels
