#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/json.h"
#include "tests/support/slurp.h"
#include "traces/model_files/model_config.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::traces {
namespace {

using tests::slurp;

const std::filesystem::path root = KVGRIND_SOURCE_DIR;

void expect_frequencies(const ModelConfig& config, const json::value& expected) {
  const auto sets = resolve_rope(config, expected.at("length").as_int64());
  const bool second = expected.at("kind").as_string() == "sliding_attention" && sets.size() > 1;
  const RopeSet& set = sets[second ? 1 : 0];
  const json::array& inv_freq = expected.at("inv_freq").as_array();
  ASSERT_EQ(set.inv_freq.size(), inv_freq.size());
  EXPECT_NEAR(set.attention_factor, expected.at("gain").as_double(), 1e-7 * expected.at("gain").as_double());
  for (std::size_t m = 0; m < inv_freq.size(); ++m) {
    const double reference = inv_freq[m].as_double();
    ASSERT_NEAR(set.inv_freq[m], reference, 4e-7 * reference) << "m " << m << " length " << expected.at("length");
  }
}

TEST(ModelConfig, MatchesTheReference) {
  const json::value golden = parse_json(slurp(root / "tests/golden/configs.json"), "configs.json");
  ASSERT_GE(golden.at("rows").as_array().size(), 40u);
  for (const json::value& row : golden.at("rows").as_array()) {
    const std::string text = json_text(row.at("config"));
    SCOPED_TRACE(text.substr(0, 600));
    const json::value& expect = row.at("expect");
    const ModelConfig config = parse_model_config(text, "", "config.json");
    EXPECT_EQ(config.card.family, expect.at("family").as_string());
    EXPECT_EQ(config.card.kv_heads, expect.at("kv_heads").as_int64());
    EXPECT_EQ(config.card.head_dim, expect.at("head_dim").as_int64());
    EXPECT_EQ(config.card.max_positions, expect.at("max_positions").as_int64());
    EXPECT_FLOAT_EQ(config.rms_eps, static_cast<float>(expect.at("eps").as_double()));
    EXPECT_EQ(config.tied_embeddings, expect.at("tied").as_bool());
    EXPECT_EQ(config.qkv_bias, expect.at("qkv_bias").as_bool());
    EXPECT_EQ(config.o_bias, expect.at("o_bias").as_bool());
    EXPECT_EQ(config.mlp_bias, expect.at("mlp_bias").as_bool());
    EXPECT_EQ(config.qk_norm, expect.at("qk_norm").as_bool());
    EXPECT_EQ(config.bos, expect.at("bos").as_int64());
    std::string dtype(expect.at("dtype").as_string());
    EXPECT_EQ(dtype, config.card.dtype == DType::f32   ? "float32"
                     : config.card.dtype == DType::f16 ? "float16"
                                                       : "bfloat16");
    ASSERT_EQ(config.eos.size(), expect.at("eos").as_array().size());
    for (std::size_t i = 0; i < config.eos.size(); ++i)
      EXPECT_EQ(config.eos[i], expect.at("eos").as_array()[i].as_int64());
    ASSERT_EQ(config.card.layer.size(), expect.at("windows").as_array().size());
    for (std::size_t i = 0; i < config.card.layer.size(); ++i)
      EXPECT_EQ(config.card.layer[i].window, expect.at("windows").as_array()[i].as_int64()) << "layer " << i;
    for (const json::value& rope : expect.at("rope").as_array()) expect_frequencies(config, rope);
    EXPECT_EQ(config.card.rope, resolve_rope(config, config.card.max_positions));
  }
}

TEST(ModelConfig, LayerTypesChooseTheirRotarySet) {
  const ModelConfig config = parse_model_config(
      R"({"model_type":"qwen2","hidden_size":64,"intermediate_size":96,"num_hidden_layers":3,"num_attention_heads":4,
          "num_key_value_heads":2,"vocab_size":10,"use_sliding_window":true,"sliding_window":16,
          "layer_types":["sliding_attention","full_attention","sliding_attention"],
          "rope_parameters":{"full_attention":{"rope_type":"linear","factor":8.0,"rope_theta":1000000.0},
                             "sliding_attention":{"rope_type":"default","rope_theta":10000.0}}})",
      "", "config.json");
  ASSERT_EQ(config.card.rope.size(), 2u);
  EXPECT_EQ(config.card.rope[0].type, "linear");
  EXPECT_EQ(config.card.rope[1].type, "default");
  EXPECT_EQ(config.card.layer[0].rope_set, 1);
  EXPECT_EQ(config.card.layer[1].rope_set, 0);
  EXPECT_EQ(config.card.layer[1].window, 0);
  EXPECT_EQ(config.card.layer[2].window, 16);
}

TEST(ModelConfig, GenerationConfigWins) {
  const std::string text =
      R"({"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":1,"num_attention_heads":4,"vocab_size":9})";
  EXPECT_EQ(parse_model_config(text, "", "c").eos, std::vector<std::int32_t>{2});
  EXPECT_EQ(parse_model_config(text, R"({"eos_token_id":[5,6]})", "c").eos, (std::vector<std::int32_t>{5, 6}));
  EXPECT_EQ(parse_model_config(text, R"({"top_p":0.5})", "c").eos, std::vector<std::int32_t>{2});
  EXPECT_THROW(parse_model_config(text, R"({"eos_token_id":"x"})", "c"), Error);
}

TEST(ModelConfig, TinyModelIsReadWhole) {
  const ModelConfig config = read_model_config(root / "traces/examples/tiny-3m/");
  EXPECT_EQ(config.card.name, "tiny-3m");
  EXPECT_EQ(config.card.layers, 6);
  EXPECT_EQ(config.card.group(), 3);
  EXPECT_EQ(config.card.head_dim, 32);
  EXPECT_EQ(config.card.dtype, DType::bf16);
  EXPECT_FLOAT_EQ(config.card.scale, 1.0f / std::sqrt(32.0f));
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.bos, 0);
  EXPECT_EQ(config.eos, std::vector<std::int32_t>{1});
  EXPECT_NEAR(config.card.rope[0].inv_freq[8], std::pow(1e5, -0.5), 1e-9);
}

// One change to a good configuration and the key that the error must name.
TEST(ModelConfig, RefusesByTheNameOfTheKey) {
  const json::object good =
      parse_json(
          R"({"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,
          "num_key_value_heads":2,"vocab_size":100,"max_position_embeddings":4096})",
          "good")
          .as_object();
  EXPECT_NO_THROW(parse_model_config(json_text(good), "", "config.json"));
  const std::pair<const char*, const char*> changes[] = {{"model_type", R"("gemma2")"},
                                                         {"model_type", R"("gemma3_text")"},
                                                         {"model_type", R"("phi3")"},
                                                         {"model_type", R"("mixtral")"},
                                                         {"model_type", "3"},
                                                         {"num_local_experts", "8"},
                                                         {"num_experts", "64"},
                                                         {"quantization_config", R"({"bits":4})"},
                                                         {"kv_lora_rank", "512"},
                                                         {"text_config", "{}"},
                                                         {"hidden_act", R"("gelu")"},
                                                         {"layer_types", R"(["full_attention","linear_attention"])"},
                                                         {"layer_types", R"(["full_attention"])"},
                                                         {"layer_types", R"(["full_attention","sliding_attention"])"},
                                                         {"layer_types", "3"},
                                                         {"hidden_size", "0"},
                                                         {"hidden_size", "-64"},
                                                         {"hidden_size", "64.0"},
                                                         {"hidden_size", "1099511627776"},
                                                         {"hidden_size", R"("64")"},
                                                         {"hidden_size", "66"},
                                                         {"hidden_size", "null"},
                                                         {"num_hidden_layers", "1000000000"},
                                                         {"num_attention_heads", "9223372036854775807"},
                                                         {"num_key_value_heads", "3"},
                                                         {"num_key_value_heads", "0"},
                                                         {"head_dim", "7"},
                                                         {"head_dim", "1000000"},
                                                         {"vocab_size", "1e3"},
                                                         {"rms_norm_eps", "-1"},
                                                         {"rms_norm_eps", R"("x")"},
                                                         {"torch_dtype", R"("float64")"},
                                                         {"attention_bias", "1"},
                                                         {"eos_token_id", "-2"},
                                                         {"eos_token_id", "[1,\"x\"]"},
                                                         {"max_position_embeddings", "0"},
                                                         {"partial_rotary_factor", "0.5"},
                                                         {"rope_scaling", "3"},
                                                         {"rope_theta", R"("x")"}};
  for (const auto& [key, value] : changes) {
    json::object bad = good;
    bad[key] = parse_json(value, "value");
    try {
      parse_model_config(json_text(bad), "", "config.json");
      ADD_FAILURE() << "accepted " << key << " = " << value;
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::damaged);
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
  }
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "model_type"}) {
    json::object bad = good;
    bad.erase(key);
    EXPECT_THROW(parse_model_config(json_text(bad), "", "config.json"), Error) << key;
  }
}

TEST(ModelConfig, RefusesBadRotaryParameters) {
  json::object good =
      parse_json(
          R"({"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,
          "vocab_size":100,"max_position_embeddings":4096})",
          "good")
          .as_object();
  for (const char* scaling :
       {R"({"rope_type":"mrope"})", R"({"rope_type":"su","factor":2})", R"({"rope_type":"linear"})",
        R"({"rope_type":"linear","factor":0})", R"({"rope_type":"linear","factor":-2})",
        R"({"rope_type":"linear","factor":"2"})", R"({"rope_type":"llama3","factor":8})",
        R"({"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":1})",
        R"({"rope_type":"llama3","factor":8,"low_freq_factor":0,"high_freq_factor":1})",
        R"({"rope_type":"yarn","factor":4,"original_max_position_embeddings":1})",
        R"({"rope_type":"yarn","factor":4,"beta_fast":-1})", R"({"rope_type":"yarn","factor":4,"attention_factor":-1})",
        R"({"rope_type":"longrope","short_factor":[1],"long_factor":[1]})",
        R"({"rope_type":"longrope","short_factor":[1,1,1,1,1,1,1,1],"long_factor":[1,1,1,1,1,1,1,0]})",
        R"({"rope_type":"longrope","short_factor":3,"long_factor":[]})", R"({"rope_type":3})", R"({"rope_theta":0})",
        R"({"rope_theta":-5})"}) {
    json::object bad = good;
    bad["rope_scaling"] = parse_json(scaling, "scaling");
    bad["original_max_position_embeddings"] = nullptr;
    // The frequencies that a run needs, at both ends of longrope.
    EXPECT_THROW(
        {
          const ModelConfig config = parse_model_config(json_text(bad), "", "config.json");
          (void)resolve_rope(config, 1);
          (void)resolve_rope(config, 1'000'000);
        },
        Error)
        << scaling;
  }
}

TEST(ModelConfig, LongropeChecksBothLists) {
  const std::string text =
      R"({"model_type":"llama","hidden_size":32,"intermediate_size":96,"num_hidden_layers":1,"num_attention_heads":4,
          "vocab_size":100,"max_position_embeddings":64,"original_max_position_embeddings":64,
          "rope_scaling":{"rope_type":"longrope","short_factor":[1,1,1,1],"long_factor":[1,1,1]}})";
  EXPECT_THROW(parse_model_config(text, "", "config.json"), Error);  // though a short run would not need the long one
}

}  // namespace
}  // namespace kvgrind::traces
