// A gate of Fast KVzip for T8 by hand: queries k and k with its parts exchanged, base keys (1, 0) and (0, 1). The
// biases "b 0" are the test's.
#pragma once
#include <vector>

#include "core/calibration.h"

namespace kvgrind::tests {

inline void set_fast_kvzip_gate(Calibration& gate) {
  std::vector<float> wq(8 * 4), wk(8 * 2);
  wq[4 * 4 + 0] = wq[5 * 4 + 1] = 1;  // q_0 = k
  wq[4 * 4 + 3] = wq[5 * 4 + 2] = 1;  // q_1 = k, exchanged
  wk[4 * 2 + 0] = wk[5 * 2 + 1] = 1;
  gate.tensors["wq 0"] = {{8, 4}, wq};
  gate.tensors["cq 0"] = {{4}, {0, 0, 0, 0}};
  gate.tensors["wk 0"] = {{8, 2}, wk};
  gate.tensors["nq 0"] = gate.tensors["nk 0"] = {{2}, {1, 1}};
  gate.tensors["base 0"] = {{2, 2}, {1, 0, 0, 1}};
}

}  // namespace kvgrind::tests
