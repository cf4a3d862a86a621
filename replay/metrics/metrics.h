// Open-loop figures: formulas in replay/metrics/README.md. Names carry figure and query set: recall.answer.far.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "traces/results/result_row.h"

namespace kvgrind::replay {

using traces::Metric;
using MetricMap = traces::MetricMap;

}  // namespace kvgrind::replay
