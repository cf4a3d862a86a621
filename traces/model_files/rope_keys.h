// The rotary keys of config.json, both generations.
#pragma once
#include <cstdint>

#include "core/model_config.h"
#include "traces/model_files/config_keys.h"

namespace kvgrind::traces {

// Parameters for full-attention and for sliding-window layers: equal unless the file nests them by layer type.
struct RopeByLayerType {
  RopeParameters full, sliding;
};
RopeByLayerType read_rope(const ConfigKeys& config, std::int64_t max_positions);

}  // namespace kvgrind::traces
