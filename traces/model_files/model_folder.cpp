#include "traces/model_files/model_folder.h"

#include <fmt/format.h>

#include <set>

#include "core/error.h"
#include "traces/model_files/mapped_file.h"
#include "traces/model_files/model_config.h"
#include "traces/model_files/safetensors.h"
#include "traces/model_files/token_limits.h"

namespace kvgrind::traces {
namespace {

constexpr std::size_t max_config_bytes = 16u << 20;
constexpr std::size_t max_index_bytes = 64u << 20;

bool there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// "config.json of tiny-3m", for messages.
std::string named(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.parent_path();
  return folder.empty() ? path.string() : fmt::format("{} of {}", path.filename().string(), folder.string());
}

void require_folder(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (std::filesystem::is_directory(folder, ignored)) return;
  throw Error(there(folder) ? Category::damaged : Category::missing,
              {.doing = "opening model",
               .on = folder.string(),
               .found = there(folder) ? "no folder" : "nothing there",
               .expected = "a folder with config.json, model.safetensors and tokenizer.json"});
}

void add_file(const std::filesystem::path& path, const std::set<std::string>* wanted, Weights& weights,
              std::string& missing, int& missing_count) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  std::map<std::string, Tensor> tensors = parse_safetensors(file->bytes(), named(path));
  weights.storage.push_back(file);
  if (wanted == nullptr) {
    weights.tensors = std::move(tensors);
    return;
  }
  for (const std::string& name : *wanted) {
    const auto found = tensors.find(name);
    if (found != tensors.end()) {
      weights.tensors.emplace(name, std::move(found->second));
    } else if (++missing_count <= 50) {
      missing +=
          fmt::format("{}{} (in {})", missing.empty() ? "" : ", ", name.substr(0, 200), path.filename().string());
    }
  }
}

void read_sharded(const std::filesystem::path& folder, Weights& weights) {
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  const std::string text = read_text_file(index, max_index_bytes);
  std::map<std::string, std::set<std::string>> by_file;
  for (const auto& [tensor, file] : parse_safetensors_index(text, named(index))) by_file[file].insert(tensor);
  std::string missing;
  int missing_count = 0;
  for (const auto& [file, wanted] : by_file) add_file(folder / file, &wanted, weights, missing, missing_count);
  if (missing_count > 0)
    throw Error(Category::damaged, {.doing = "reading",
                                    .on = named(index),
                                    .found = fmt::format("{} tensors that their files lack: {}{}", missing_count,
                                                         missing, missing_count > 50 ? ", …" : ""),
                                    .expected = "each tensor in the file named"});
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& folder) {
  require_folder(folder);
  const std::filesystem::path path = folder / "config.json", generation = folder / "generation_config.json";
  const std::string text = read_text_file(path, max_config_bytes);
  const std::string other = there(generation) ? read_text_file(generation, max_config_bytes) : "";
  ModelConfig config = parse_model_config(text, other, named(path));
  const std::filesystem::path whole = std::filesystem::absolute(folder).lexically_normal();
  config.card.name = whole.filename().empty() ? whole.parent_path().filename().string() : whole.filename().string();
  return config;
}

Weights read_weights(const std::filesystem::path& folder, bool with_hash) {
  require_folder(folder);
  Weights weights;
  if (there(folder / "model.safetensors")) {
    std::string unused;
    int none = 0;
    add_file(folder / "model.safetensors", nullptr, weights, unused, none);
  } else if (there(folder / "model.safetensors.index.json")) {
    read_sharded(folder, weights);
  } else {
    const bool pickled = there(folder / "pytorch_model.bin") || there(folder / "pytorch_model.bin.index.json");
    throw Error(Category::missing, {.doing = "reading weights of",
                                    .on = folder.string(),
                                    .found = pickled ? "pickled weights alone" : "none",
                                    .expected = "model.safetensors or model.safetensors.index.json",
                                    .next = pickled ? "save the model with safe_serialization=True" : ""});
  }
  if (with_hash) weights.content_hash = content_hash(weights.tensors);
  return weights;
}

std::shared_ptr<const Tokenizer> read_tokenizer(const std::filesystem::path& folder) {
  require_folder(folder);
  const std::filesystem::path path = folder / "tokenizer.json";
  return parse_tokenizer(read_text_file(path, max_tokenizer_bytes), named(path));
}

ModelFolder read_model_folder(const std::filesystem::path& folder) {
  ModelFolder model;
  model.config = read_model_config(folder);
  model.weights = read_weights(folder);
  if (there(folder / "tokenizer.json")) model.tokenizer = read_tokenizer(folder);
  model.config.card.model_hash = model.weights.content_hash;
  return model;
}

}  // namespace kvgrind::traces
