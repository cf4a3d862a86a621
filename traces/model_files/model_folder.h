// A Hugging Face model folder turned into core values: config.json, safetensors (single or sharded), tokenizer.json.
// Files are hostile until checked (limits in model-file readers); every fault is Error(missing | damaged) by name.
#pragma once
#include <filesystem>
#include <memory>
#include <string>

#include "core/model_config.h"
#include "core/weights.h"
#include "traces/model_files/tokenizer.h"

namespace kvgrind::traces {

ModelConfig read_model_config(const std::filesystem::path& folder);
// Memory-mapped, read-only; validates the header fully; `with_hash` reads every byte once.
Weights read_weights(const std::filesystem::path& folder, bool with_hash = true);
std::shared_ptr<const Tokenizer> read_tokenizer(const std::filesystem::path& folder);

struct ModelFolder {
  ModelConfig config;
  Weights weights;
  std::shared_ptr<const Tokenizer> tokenizer;  // null when the folder has no tokenizer.json
};
// The three together; config.card.name = the folder's name, config.card.model_hash = the weights' content hash.
ModelFolder read_model_folder(const std::filesystem::path& folder);

}  // namespace kvgrind::traces
