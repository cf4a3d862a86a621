// The fp32 multiply-add rate of one core, measured with registers alone: what kernels are held against.
#pragma once

namespace kvgrind::bench {

double fma_peak_gflops();  // of the current instruction-set level; measured once for each, best of several slices

}  // namespace kvgrind::bench
