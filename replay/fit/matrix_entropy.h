// How many directions a head's queries fill.
#pragma once
#include <cstdint>

#include "replay/fit/fit_data.h"

namespace kvgrind::replay {

// x [n, D] centred over its rows, rows of unit length, σ the eigenvalues of their second moment over its trace,
// descending: −Σ over the first k of σ log σ / log D. 0 = one direction, 1 = all alike (k ≥ D).
double matrix_entropy(const Rows& x, std::int64_t k);

}  // namespace kvgrind::replay
