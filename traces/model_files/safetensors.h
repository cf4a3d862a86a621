// safetensors: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes without holes.
//   source: huggingface/safetensors format description
#pragma once
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "core/weights.h"

namespace kvgrind::traces {

// Tensors of a file given as bytes; they point into `file`. `what` names it in errors. Every rule of the format is
// checked: Error(damaged) names the first one broken. Values are not looked at (NaN and Inf are legal).
std::map<std::string, Tensor> parse_safetensors(std::span<const std::byte> file, std::string_view what);

// tensor name → file name of model.safetensors.index.json; file names are plain base names.
std::map<std::string, std::string> parse_safetensors_index(std::string_view text, std::string_view what);

// 16 hex digits over names, types, shapes and bytes in order of names: the same however the tensors are spread.
std::string content_hash(const std::map<std::string, Tensor>& tensors);

}  // namespace kvgrind::traces
