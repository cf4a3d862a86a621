// Mean rotation of a stretch of positions, as a matrix: R̄ = 1/n Σ R_t for t in [first, first + n), attention factor
// included; [D, D], half-split pairing, dims beyond the rotary ones pass through.
#pragma once
#include "core/array.h"
#include "core/model_card.h"

namespace kvgrind::sim {

Array<double, 2> mean_rotation(const RopeSet& set, std::int64_t dim, std::int64_t first, std::int64_t n);

}  // namespace kvgrind::sim
