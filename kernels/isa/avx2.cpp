#include "kernels/isa/table_of_level.h"

namespace kvgrind::kernels {

const KernelTable avx2_kernels = table_of_level;

}  // namespace kvgrind::kernels
