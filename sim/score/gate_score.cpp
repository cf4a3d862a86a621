// A fitted gate on what the token itself is: the probability that it will be needed.
//   see sim/engine/learned_head.h
//   source: arXiv 2410.12876 (from memory)
#include "sim/engine/learned_head.h"

namespace kvgrind::sim::scores {

extern const ScoreRow gate_score;
const ScoreRow gate_score = {
    .name = "gate_score",
    .source = "arXiv 2410.12876 (from memory)",
    .help = "a fitted gate on a token's own queries, keys and values: how likely it is to be needed",
    .params = {{"calib",
                ParamType::calibration,
                "\"\"",
                "what kvgrind fit attention_gate wrote",
                -1e300,
                1e300,
                {"attention_gate"}}},
    .needs = {Signal::queries},
    .score = learned_head_scores,
};

}  // namespace kvgrind::sim::scores
