// The table of the level that the including file is compiled for.
#pragma once
#include "kernels/isa/attention_lanes.h"
#include "kernels/isa/elementwise_lanes.h"
#include "kernels/isa/kernel_table.h"
#include "kernels/isa/linear_lanes.h"
#include "kernels/isa/probabilities_lanes.h"

namespace kvgrind::kernels {
namespace {

constexpr KernelTable table_of_level{
    .linear_rows = linear_rows,
    .linear = {linear_task<StoredF32>, linear_task<StoredF16>, linear_task<StoredBf16>},
    .attention_row_stride = attention_row_stride,
    .attention = attention_any,
    .probabilities = probabilities_any,
    .silu_mul = silu_mul_any,
    .exp_nonpositive = map_any<ExpNonpositive>,
    .tanh = map_any<Tanh>,
};

}  // namespace
}  // namespace kvgrind::kernels
