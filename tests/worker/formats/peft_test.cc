#include "worker/formats/peft.h"

#include <gtest/gtest.h>

#include <iterator>

#include "absl/strings/match.h"
#include "common/base/file.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const char* const kConfigPath = LATHE_TEST_DATA "/tiny-adapter/adapter_config.json";

AdapterConfig Example() {
  AdapterConfig config;
  config.base_model = "smollm2";
  config.rank = 4;
  config.alpha = 8;
  config.target_modules = {"v_proj", "q_proj"};
  return config;
}

// What PEFT wrote, with one key changed.
std::string WithKey(const char* key, const json& value) {
  json root = json::parse(*ReadFile(kConfigPath));
  root[key] = value;
  return root.dump();
}

TEST(AdapterConfigTest, TheFileHasTheTwelveKeysOfPeft) {
  const json root = json::parse(AdapterConfigJson(Example()));
  EXPECT_EQ(root, json::parse(R"({"base_model_name_or_path":"smollm2","bias":"none",
      "fan_in_fan_out":false,"inference_mode":true,"lora_alpha":8,"lora_dropout":0.0,
      "modules_to_save":null,"peft_type":"LORA","r":4,"revision":null,
      "target_modules":["q_proj","v_proj"],"task_type":"CAUSAL_LM"})"));
  EXPECT_EQ(root.size(), 12U);
}

TEST(AdapterConfigTest, WhatIsWrittenIsReadBack) {
  AdapterConfig config = Example();
  config.alpha = 8.5;
  config.dropout = 0.05;
  const auto again = ParseAdapterConfig(AdapterConfigJson(config));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(AdapterConfigJson(*again), AdapterConfigJson(config));
  EXPECT_EQ(again->alpha, 8.5);
}

TEST(AdapterConfigTest, RankStabilisedScaleIsAlphaOverTheRootOfTheRank) {
  AdapterConfig config = Example();
  EXPECT_EQ(config.Scale(), 2);
  config.rslora = true;
  EXPECT_EQ(config.Scale(), 4);
  const std::string text = AdapterConfigJson(config);
  EXPECT_EQ(json::parse(text).size(), 13U);
  const auto again = ParseAdapterConfig(text);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->rslora);
  EXPECT_FALSE(again->dora);
  config.dora = true;
  EXPECT_TRUE(ParseAdapterConfig(AdapterConfigJson(config))->dora);
}

TEST(AdapterConfigTest, ATargetIsAModulesPathOrItsEndAfterADot) {
  const absl::string_view key = "model.layers.1.mlp.up_proj";
  EXPECT_TRUE(IsTarget(key, {"q_proj", "up_proj"}));
  EXPECT_TRUE(IsTarget(key, {"layers.1.mlp.up_proj"}));
  EXPECT_TRUE(IsTarget(key, {"model.layers.1.mlp.up_proj"}));
  EXPECT_FALSE(
      IsTarget(key, {"proj", "p.up_proj", "layers.0.mlp.up_proj", "x.model.layers.1.mlp.up_proj"}));
}

TEST(AdapterConfigTest, ReadsWhatPeftItselfWrote) {
  const auto config = ParseAdapterConfig(*ReadFile(kConfigPath));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rank, 4);
  EXPECT_EQ(config->alpha, 8);
  EXPECT_EQ(config->target_modules.size(), 7U);
}

TEST(AdapterConfigTest, RefusesWhatWouldComputeSomethingElse) {
  const std::vector<std::pair<const char*, json>> cases = {
      {"rank_pattern", {{"q_proj", 2}}},
      {"bias", "all"},
      {"peft_type", "IA3"},
      {"modules_to_save", json::array({"lm_head"})},
      {"fan_in_fan_out", true},
      {"lora_bias", true},
      {"task_type", "SEQ_CLS"},
      {"layers_to_transform", json::array({1})},
      {"a_later_invention", 1}};
  for (const auto& [key, value] : cases) {
    const absl::Status status = ParseAdapterConfig(WithKey(key, value)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << key << ": " << status;
    EXPECT_TRUE(absl::StrContains(status.message(), key)) << status;
  }
}

TEST(AdapterConfigTest, RefusesValuesOutOfBounds) {
  const std::vector<std::pair<const char*, json>> cases = {
      {"r", 0},
      {"r", 1.5},
      {"r", "8"},
      {"r", nullptr},
      {"r", 100000},
      {"lora_alpha", 0},
      {"lora_alpha", nullptr},
      {"lora_dropout", 1},
      {"lora_dropout", -0.5},
      {"use_rslora", 1},
      {"use_dora", "yes"},
      {"target_modules", nullptr},
      {"target_modules", ".*"},
      {"target_modules", json::array()},
      {"target_modules", json::array({"../x"})},
      {"base_model_name_or_path", 3}};
  for (const auto& [key, value] : cases) {
    EXPECT_EQ(ParseAdapterConfig(WithKey(key, value)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << key << " " << value;
  }
}

TEST(WriteAdapterTest, WritesBothFilesOrNothing) {
  const auto temp = TempFolder::Make("peft_test");
  const fs::path dir = temp->path() / "a/out/";
  const std::string name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  ASSERT_TRUE(WriteAdapter(dir, Example(), {{name, Dtype::kF32, {1}, "1234"}}).ok());
  EXPECT_EQ(std::distance(fs::directory_iterator(dir), fs::directory_iterator()), 2);
  EXPECT_NE(SafetensorsFile::Open(dir / "adapter_model.safetensors")->Find(name), nullptr);
  EXPECT_EQ(WriteAdapter(dir, Example(), {}).code(), absl::StatusCode::kAlreadyExists);

  const fs::path other = temp->path() / "other";
  EXPECT_FALSE(WriteAdapter(other, Example(), {{name, Dtype::kF32, {2}, "1234"}}).ok());
  EXPECT_FALSE(WriteAdapter(other, Example(), {{"q_proj", Dtype::kF32, {1}, "1234"}}).ok());
  EXPECT_EQ(std::distance(fs::directory_iterator(temp->path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace lathe
