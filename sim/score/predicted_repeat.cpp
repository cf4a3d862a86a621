// KVzap: the logarithm of KVzip+'s score, predicted from what a token itself is.
//   see sim/engine/learned_head.h: linear, or a layer of exact GELU between
//   source: arXiv 2601.07891; NVIDIA/kvpress kvzap_press.py
#include "sim/engine/learned_head.h"

namespace kvgrind::sim::scores {

extern const ScoreRow predicted_repeat;
const ScoreRow predicted_repeat = {
    .name = "predicted_repeat",
    .source = "arXiv 2601.07891; NVIDIA/kvpress kvzap_press.py",
    .help = "attention while repeating, predicted from a token's own queries, keys and values",
    .params = {{"calib", ParamType::calibration, "\"\"", "what kvgrind fit kvzap wrote", -1e300, 1e300, {"kvzap"}}},
    .needs = {Signal::queries},
    .score = learned_head_scores,
};

}  // namespace kvgrind::sim::scores
