// Which instruction-set level the CPU kernels run at. Chosen once from what the processor has; KVGRIND_ISA=baseline,
// avx2 or avx512 asks for a lower one. Levels differ in rounding (the baseline has no fused multiply-add), so equal
// bits are promised within one level only.
#pragma once
#include <string_view>
#include <vector>

#include "kernels/isa/kernel_table.h"

namespace kvgrind::kernels {

enum class Isa { baseline, avx2, avx512 };

std::string_view isa_name(Isa isa);
std::vector<Isa> available_isas();  // lowest first
Isa current_isa();                  // Error(usage) when KVGRIND_ISA names no level, (unavailable) when it is too high
void set_isa(Isa isa);              // for tests and benchmarks; no kernel may be running
const KernelTable& kernels_of(Isa isa);
inline const KernelTable& current_kernels() { return kernels_of(current_isa()); }

}  // namespace kvgrind::kernels
