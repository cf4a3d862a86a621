// What `kvgrind fit` wrote, as a file: attribute `kvg_calibration` = JSON {version, method, model, numbers, texts,
// tensors: [{name, shape}]}, dataset `values` f32 = all tensors one after the other in that order.
#pragma once
#include <filesystem>
#include <memory>

#include "core/calibration.h"

namespace kvgrind::traces {

// Written to `<path>.part`, then renamed. Error(write), also when the file exists and force is off.
void write_calibration(const std::filesystem::path& path, const Calibration& calibration, bool force);
// Error(missing | damaged).
std::shared_ptr<const Calibration> read_calibration(const std::filesystem::path& path);

}  // namespace kvgrind::traces
