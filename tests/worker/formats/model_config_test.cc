#include "worker/formats/model_config.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "common/base/file.h"
#include "nlohmann/json.hpp"
#include "worker/formats/safetensors.h"

namespace lathe {
namespace {

using nlohmann::json;

json TinyJson() { return json::parse(*ReadFile(LATHE_TEST_DATA "/tiny-llama/config.json")); }

absl::Status ParseWith(const char* key, const json& value) {
  json root = TinyJson();
  root[key] = value;
  return ParseModelConfig(root.dump()).status();
}

TEST(ModelConfigTest, ReadsAFolderAndNamesEveryParameterInIt) {
  const auto config = LoadModelConfig(LATHE_TEST_DATA "/tiny-llama");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->rope_theta, 100000);
  EXPECT_EQ(config->eos_token_ids, std::vector<int64_t>{2});
  const auto file = SafetensorsFile::Open(LATHE_TEST_DATA "/tiny-llama/model.safetensors");
  ASSERT_TRUE(file.ok());
  const std::vector<ParameterSpec> specs = ParameterSpecs(*config);
  EXPECT_EQ(specs.size(), file->tensors().size());
  for (const ParameterSpec& spec : specs) {
    ASSERT_NE(file->Find(spec.name), nullptr) << spec.name;
    EXPECT_EQ(file->Find(spec.name)->shape, spec.shape) << spec.name;
  }
}

TEST(ModelConfigTest, AnUntiedHeadIsAParameter) {
  auto config = LoadModelConfig(LATHE_TEST_DATA "/tiny-llama");
  config->tie_word_embeddings = false;
  EXPECT_EQ(ParameterSpecs(*config).back().name, "lm_head.weight");
}

TEST(ModelConfigTest, WhatIsWrittenIsReadBack) {
  auto config = LoadModelConfig(LATHE_TEST_DATA "/tiny-llama");
  config->rms_norm_eps = 9.999999747378752e-06;
  config->eos_token_ids = {2, 0};
  const auto again = ParseModelConfig(ModelConfigJson(*config));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(ModelConfigJson(*again), ModelConfigJson(*config));
  EXPECT_EQ(again->rms_norm_eps, config->rms_norm_eps);
  EXPECT_EQ(again->eos_token_ids, config->eos_token_ids);
}

TEST(ModelConfigTest, TakesTransformersDefaults) {
  const auto config = ParseModelConfig(
      R"({"architectures":["LlamaForCausalLM"],"hidden_size":64,"intermediate_size":8,
          "num_hidden_layers":1,"num_attention_heads":4,"vocab_size":10})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->max_positions, 2048);
  EXPECT_EQ(config->rms_norm_eps, 1e-6);
  EXPECT_EQ(config->rope_theta, 10000);
  EXPECT_FALSE(config->tie_word_embeddings);
}

TEST(ModelConfigTest, ReadsTheRopeOfTransformers5) {
  json root = TinyJson();
  root.erase("rope_theta");
  root["rope_parameters"] = {{"rope_theta", 5000.0}, {"rope_type", "default"}};
  EXPECT_EQ(ParseModelConfig(root.dump())->rope_theta, 5000);
}

TEST(ModelConfigTest, RefusesWhatItCannotComputeByName) {
  const std::vector<std::pair<const char*, json>> cases = {
      {"architectures", json::array({"GPT2LMHeadModel"})},
      {"model_type", "qwen2"},
      {"hidden_act", "gelu"},
      {"mlp_bias", true},
      {"sliding_window", 128},
      {"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 8.0}}},
      {"rope_scaling", {{"factor", 2.0}}},
      {"rope_parameters", {{"rope_type", "yarn"}}},
      {"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}},
      {"quantization_config", {{"bits", 4}}},
      {"partial_rotary_factor", 0.5}};
  for (const auto& [key, value] : cases) {
    const absl::Status status = ParseWith(key, value);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << key << ": " << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "supported")) << status;
  }
  EXPECT_TRUE(
      absl::StrContains(ParseWith("architectures", json::array({"GPT2LMHeadModel"})).message(),
                        "supported are ChatGLMModel, LlamaForCausalLM, MistralForCausalLM, "
                        "Qwen2ForCausalLM, Qwen3ForCausalLM, T5ForConditionalGeneration"));
}

// A config.json of tests/data/families with some keys changed.
absl::StatusOr<ModelConfig> ParseFamily(const std::string& family, const json& changes = {}) {
  json root =
      json::parse(*ReadFile(std::string(LATHE_TEST_DATA "/families/") + family + "/config.json"));
  if (!changes.is_null()) root.update(changes);
  return ParseModelConfig(root.dump());
}

std::vector<std::string> LayerParameters(const ModelConfig& config) {
  std::vector<std::string> names;
  for (const ParameterSpec& spec : ParameterSpecs(config)) {
    if (absl::StartsWith(spec.name, "model.layers.0.")) names.push_back(spec.name.substr(15));
  }
  return names;
}

TEST(FamilyConfigTest, WhatIsWrittenIsReadBack) {
  for (const char* family : {"llama3", "mistral", "qwen2", "qwen3", "chatglm3"}) {
    const auto config = ParseFamily(family);
    ASSERT_TRUE(config.ok()) << config.status();
    const auto again = ParseModelConfig(ModelConfigJson(*config));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(ModelConfigJson(*again), ModelConfigJson(*config));
    EXPECT_EQ(again->max_positions, config->max_positions);
    EXPECT_EQ(LayerParameters(*again), LayerParameters(*config));
  }
}

TEST(FamilyConfigTest, LayersHaveTheParametersOfTheirFamily) {
  const auto has = [](const std::string& family, const std::string& name) {
    const std::vector<std::string> names = LayerParameters(*ParseFamily(family));
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  EXPECT_TRUE(has("llama3", "self_attn.q_proj.bias"));  // attention_bias.
  EXPECT_TRUE(has("llama3", "self_attn.o_proj.bias"));
  EXPECT_TRUE(has("qwen2", "self_attn.v_proj.bias"));
  EXPECT_FALSE(has("qwen2", "self_attn.o_proj.bias"));
  EXPECT_FALSE(has("mistral", "self_attn.q_proj.bias"));
  EXPECT_TRUE(has("qwen3", "self_attn.k_norm.weight"));
  EXPECT_FALSE(has("qwen3", "self_attn.q_proj.bias"));
}

TEST(FamilyConfigTest, ChatGlmHasFusedLayersUnderItsOriginalNames) {
  std::vector<std::string> names;
  for (const ParameterSpec& spec : ParameterSpecs(*ParseFamily("chatglm3"))) {
    names.push_back(spec.name);
  }
  const std::string layer = "transformer.encoder.layers.0.";
  EXPECT_EQ(names,
            (std::vector<std::string>{
                "transformer.embedding.word_embeddings.weight", layer + "input_layernorm.weight",
                layer + "self_attention.query_key_value.weight",
                layer + "self_attention.query_key_value.bias",
                layer + "self_attention.dense.weight", layer + "post_attention_layernorm.weight",
                layer + "mlp.dense_h_to_4h.weight", layer + "mlp.dense_4h_to_h.weight",
                "transformer.encoder.final_layernorm.weight", "transformer.output_layer.weight"}));
}

TEST(FamilyConfigTest, RefusesChatGlmsThatComputeSomethingElse) {
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, json>>{{"add_bias_linear", true},
                                                 {"apply_residual_connection_post_layernorm", true},
                                                 {"multi_query_attention", false},
                                                 {"original_rope", false},
                                                 {"post_layer_norm", false},
                                                 {"rmsnorm", false},
                                                 {"rope_ratio", 50},
                                                 {"pre_seq_len", 128},
                                                 {"quantization_bit", 4}}) {
    const absl::Status status = ParseFamily("chatglm3", {{key, value}}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << key;
    EXPECT_TRUE(absl::StrContains(status.message(), key)) << status;
  }
  for (const auto& [key, value] : std::vector<std::pair<const char*, json>>{
           {"kv_channels", 6}, {"multi_query_group_num", 3}, {"num_layers", nullptr}}) {
    EXPECT_EQ(ParseFamily("chatglm3", {{key, value}}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << key;
  }
}

TEST(FamilyConfigTest, ReadsTheRopeScalingOfBothTransformers) {
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32},
                       {"low_freq_factor", 1},
                       {"high_freq_factor", 4},
                       {"rope_theta", 500000.0}};
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    json root = TinyJson();
    root.erase("rope_scaling");
    root[key] = llama3;
    const auto config = ParseModelConfig(root.dump());
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->rope_scaling.type, RopeType::kLlama3);
    EXPECT_EQ(config->rope_scaling.factor, 32);
    EXPECT_EQ(config->rope_scaling.original_positions, 512);  // max_position_embeddings.
    EXPECT_EQ(config->rope_theta, 500000);
  }
  EXPECT_EQ(ParseWith("rope_scaling", {{"type", "linear"}, {"factor", 2.0}}), absl::OkStatus());
}

TEST(FamilyConfigTest, RefusesRopeScalingsThatContradictThemselves) {
  const json good = {{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 64}};
  EXPECT_TRUE(ParseWith("rope_scaling", good).ok());
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, json>>{{"factor", 0.5},
                                                 {"factor", "8"},
                                                 {"factor", nullptr},
                                                 {"low_freq_factor", 0},
                                                 {"high_freq_factor", 1.0},
                                                 {"original_max_position_embeddings", 0}}) {
    json bad = good;
    bad[key] = value;
    EXPECT_EQ(ParseWith("rope_scaling", bad).code(), absl::StatusCode::kInvalidArgument)
        << key << " " << value;
  }
}

// Inside of one window the window changes nothing.
TEST(FamilyConfigTest, ASlidingWindowLimitsTheSequenceLength) {
  EXPECT_EQ(ParseFamily("mistral")->max_positions, 256);
  EXPECT_EQ(ParseFamily("mistral")->position_embeddings, 512);
  EXPECT_EQ(ParseFamily("mistral", {{"sliding_window", nullptr}})->max_positions, 512);
  EXPECT_EQ(ParseFamily("mistral", {{"sliding_window", 4096}})->max_positions, 512);
  EXPECT_FALSE(ParseFamily("mistral", {{"sliding_window", 0}}).ok());
  const json used = {{"use_sliding_window", true}, {"sliding_window", 128}};
  EXPECT_EQ(ParseFamily("qwen2", used)->max_positions, 512);  // max_window_layers is 2 of 2.
  json some = used;
  some["max_window_layers"] = 1;
  EXPECT_EQ(ParseFamily("qwen2", some)->max_positions, 128);
  EXPECT_EQ(ParseFamily("qwen2", {{"sliding_window", 128}})->max_positions, 512);
  EXPECT_EQ(ParseFamily("qwen3", {{"layer_types", {"sliding_attention", "full_attention"}}})
                .status()
                .code(),
            absl::StatusCode::kUnimplemented);
}

TEST(ModelConfigTest, RefusesSizesOutOfBounds) {
  const std::vector<std::pair<const char*, json>> cases = {{"hidden_size", 0},
                                                           {"hidden_size", -5},
                                                           {"hidden_size", "32"},
                                                           {"hidden_size", 1.5},
                                                           {"hidden_size", nullptr},
                                                           {"hidden_size", 18446744073709551615U},
                                                           {"num_hidden_layers", 1025},
                                                           {"num_attention_heads", 0},
                                                           {"num_key_value_heads", 3},
                                                           {"num_key_value_heads", 0},
                                                           {"head_dim", 7},
                                                           {"vocab_size", 1 << 30},
                                                           {"rope_theta", 0},
                                                           {"rms_norm_eps", 1},
                                                           {"eos_token_id", 384},
                                                           {"tie_word_embeddings", "yes"},
                                                           {"architectures", json::array()}};
  for (const auto& [key, value] : cases) {
    const absl::Status status = ParseWith(key, value);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key << " " << value;
  }
  EXPECT_FALSE(ParseModelConfig("{").ok());
  EXPECT_FALSE(ParseModelConfig("[]").ok());
}

TEST(ModelConfigTest, RefusesMoreParametersThanAnyMachineHolds) {
  json root = TinyJson();
  root["hidden_size"] = 1 << 17;
  root["intermediate_size"] = 1 << 20;
  root["num_hidden_layers"] = 1024;
  const absl::Status status = ParseModelConfig(root.dump()).status();
  EXPECT_TRUE(absl::StrContains(status.message(), "number of parameters")) << status;
}

}  // namespace
}  // namespace lathe
