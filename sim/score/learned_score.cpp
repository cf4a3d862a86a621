// A small fitted head on what the token itself is: a score for each KV head that needs no attention at all.
//   see sim/engine/learned_head.h
//   source: arXiv 2410.01805; huangyuxiang03/Locret modeling_llama.py
#include "sim/engine/learned_head.h"

namespace kvgrind::sim::scores {

extern const ScoreRow learned_score;
const ScoreRow learned_score = {
    .name = "learned_score",
    .source = "arXiv 2410.01805; huangyuxiang03/Locret modeling_llama.py",
    .help = "a small fitted head on a token's own queries, keys and values",
    .params = {{"calib", ParamType::calibration, "\"\"", "what kvgrind fit locret wrote", -1e300, 1e300, {"locret"}}},
    .needs = {Signal::queries},
    .score = learned_head_scores,
};

}  // namespace kvgrind::sim::scores
