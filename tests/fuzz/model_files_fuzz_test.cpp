// Model files mutated: readers give a value or an Error, never more.
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>
#include <sstream>

#include "core/json.h"
#include "tests/fuzz/mutate.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/slurp.h"
#include "traces/model_files/model_config.h"
#include "traces/model_files/safetensors.h"
#include "traces/model_files/tokenizer.h"

namespace kvgrind::traces {
namespace {

using tests::slurp;

const std::filesystem::path root = KVGRIND_SOURCE_DIR;

void read_tensors(const std::string& file) {
  // A copy of its own, exactly as large: reading past it is seen by the sanitizers.
  const std::vector<std::byte> bytes = [&] {
    std::vector<std::byte> copy(file.size());
    std::transform(file.begin(), file.end(), copy.begin(), [](char c) { return static_cast<std::byte>(c); });
    return copy;
  }();
  int sum = 0;
  for (const auto& [name, tensor] : parse_safetensors(bytes, "x.safetensors"))
    for (std::int64_t i = 0; i < tensor.elements() * size_bytes(tensor.dtype); ++i)
      sum += static_cast<int>(tensor.data[i]);
  volatile int used = sum;
  (void)used;
}

TEST(Fuzz, Safetensors) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"z":{"dtype":"F16","shape":[0,7],"data_offsets":[22,22]}})";
  std::string many = "{";
  for (int i = 0; i < 40; ++i)
    many += (i ? ",\"t" : "\"t") + std::to_string(i) + R"(":{"dtype":"F16","shape":[4],"data_offsets":[)" +
            std::to_string(8 * i) + "," + std::to_string(8 * i + 8) + "]}";
  const auto repair = [](const std::string& file) {
    const std::size_t brace = file.rfind('}');
    return file.size() < 8 || brace == std::string::npos || brace < 8
               ? file
               : tests::safetensors_bytes(file.substr(8, brace - 7), file.substr(brace + 1));
  };
  tests::fuzz("safetensors",
              {tests::safetensors_bytes(header, std::string(22, '\x7f')),
               tests::safetensors_bytes(many + "}", std::string(320, 'x'))},
              read_tensors, repair);
}

TEST(Fuzz, SafetensorsIndex) {
  std::string text = R"({"metadata":{"total_size":1234},"weight_map":{)";
  for (int i = 0; i < 30; ++i)
    text += (i ? ",\"t" : "\"t") + std::to_string(i) + "\":\"model-0000" + std::to_string(i % 3) +
            "-of-00003.safetensors\"";
  tests::fuzz("index", {text + "}}"}, [](const std::string& file) {
    for (const auto& [tensor, name] : parse_safetensors_index(file, "index"))
      if (name.find('/') != std::string::npos || name.find("..") == 0) throw std::runtime_error("a path got through");
  });
}

TEST(Fuzz, Config) {
  std::vector<std::string> corpus;
  const json::value golden = parse_json(slurp(root / "tests/golden/configs.json"), "configs.json");
  for (const json::value& row : golden.at("rows").as_array()) corpus.push_back(json_text(row.at("config")));
  tests::fuzz("config", corpus, [](const std::string& file) {
    const ModelConfig config = parse_model_config(file, file, "config.json");
    for (const std::int64_t length : {1, 5000, 1'000'000}) (void)resolve_rope(config, length);
    if (config.card.query_heads % config.card.kv_heads != 0 ||
        config.card.layer.size() != static_cast<std::size_t>(config.card.layers))
      throw std::runtime_error("an inconsistent card got through");
  });
}

TEST(Fuzz, Tokenizer) {
  std::vector<std::string> corpus;
  for (const char* form : {"gpt2", "llama3", "qwen2", "llama2", "metaspace"})
    corpus.push_back(slurp(root / "tests/golden/tokenizers" / (std::string(form) + ".json")));
  tests::fuzz("tokenizer", corpus, [](const std::string& file) {
    const auto tokenizer = parse_tokenizer(file, "tokenizer.json");
    const std::string text =
        "It's <|bos|> a test: 12345 caf\xc3\xa9 \xe4\xbd\xa0 \xff\xfe\n\n  <s>x</s> <mask> \xe2\x96\x81 end";
    const auto ids = tokenizer->encode(text, true);
    (void)tokenizer->decode(ids);
    std::vector<std::int32_t> some(40);
    std::iota(some.begin(), some.end(), -3);
    (void)tokenizer->decode(some, false);
    for (const std::int32_t id : some) (void)tokenizer->bytes(id);
  });
}

TEST(Fuzz, Json) {
  tests::fuzz("json", {R"({"a":[1,2.5,-3e7,true,null,"x\u00e9\n"],"b":{"c":{"d":[[],{}]}},"k":18446744073709551615})"},
              [](const std::string& file) {
                const json::value value = parse_json(file, "x.json");
                if (parse_json(json_text(value), "again") != value) throw std::runtime_error("no round trip");
              });
}

}  // namespace
}  // namespace kvgrind::traces
