#include "worker/formats/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "common/base/file.h"
#include "nlohmann/json.hpp"
#include "worker/formats/peft.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/sharded_safetensors.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

const fs::path kData = LATHE_TEST_DATA;

std::vector<float> Floats(const SafetensorsFile& file, const std::string& name) {
  const TensorView* view = file.Find(name);
  EXPECT_NE(view, nullptr) << name;
  std::vector<float> values(view->bytes.size() / sizeof(float));
  std::memcpy(values.data(), view->bytes.data(), view->bytes.size());
  return values;
}

// |a - b| / |b|.
double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(double{a[i]} - double{b[i]}, 2);
    norm += std::pow(double{b[i]}, 2);
  }
  return a.size() == b.size() ? std::sqrt(difference / norm) : INFINITY;
}

class MergeTest : public testing::Test {
 protected:
  fs::path out() const { return folder_.path() / "merged"; }
  SafetensorsFile Merged() const { return *SafetensorsFile::Open(out() / "model.safetensors"); }
  absl::Status Merge(const fs::path& adapter, const MergeOptions& options = {}) const {
    return MergeAdapter(kData / "tiny-llama", adapter, out(), options, nullptr);
  }
  // The golden adapter with a changed configuration.
  fs::path AdapterWith(const char* key, const json& value) const {
    const fs::path dir = folder_.path() / "adapter";
    fs::copy(kData / "tiny-adapter", dir);
    json config = json::parse(*ReadFile(dir / "adapter_config.json"));
    config[key] = value;
    EXPECT_TRUE(WriteFileAtomically(dir / "adapter_config.json", config.dump()).ok());
    return dir;
  }

  TempFolder folder_ = *TempFolder::Make("merge-test");
};

TEST_F(MergeTest, WeightsAreThoseOfPeftsMergeAndUnload) {
  const auto golden = SafetensorsFile::Open(kData / "goldens/merged.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  for (const auto& [kind, adapter] :
       {std::pair("lora.", "tiny-adapter"), std::pair("dora.", "tiny-adapter-dora")}) {
    ASSERT_TRUE(Merge(kData / adapter).ok());
    const SafetensorsFile merged = Merged();
    for (const std::string name :
         {"model.layers.0.self_attn.v_proj.weight", "model.layers.1.mlp.down_proj.weight"}) {
      EXPECT_LE(RelativeError(Floats(merged, name), Floats(*golden, kind + name)), 2e-7)
          << kind << name;
    }
    fs::remove_all(out());
  }
}

TEST_F(MergeTest, WhatTheAdapterDoesNotTouchIsTakenOver) {
  ASSERT_TRUE(Merge(kData / "tiny-adapter").ok());
  const SafetensorsFile merged = Merged();
  const auto base = SafetensorsFile::Open(kData / "tiny-llama/model.safetensors");
  ASSERT_EQ(merged.tensors().size(), base->tensors().size());
  EXPECT_EQ(merged.Find("model.norm.weight")->bytes, base->Find("model.norm.weight")->bytes);
  EXPECT_NE(merged.Find("model.layers.0.mlp.up_proj.weight")->bytes,
            base->Find("model.layers.0.mlp.up_proj.weight")->bytes);
  for (const auto& entry : fs::directory_iterator(kData / "tiny-llama")) {
    EXPECT_TRUE(fs::exists(out() / entry.path().filename())) << entry.path();
  }
  EXPECT_EQ(*ReadFile(out() / "tokenizer.json"), *ReadFile(kData / "tiny-llama/tokenizer.json"));
}

TEST_F(MergeTest, SixteenBitWeightsAreTheMergedOnesRoundedOnce) {
  ASSERT_TRUE(Merge(kData / "tiny-adapter").ok());
  const std::string name = "model.layers.0.self_attn.v_proj.weight";
  const std::vector<float> exact = Floats(Merged(), name);
  fs::remove_all(out());
  ASSERT_TRUE(Merge(kData / "tiny-adapter", {.dtype = Dtype::kBf16}).ok());
  const SafetensorsFile merged = Merged();
  const TensorView* view = merged.Find(name);
  ASSERT_EQ(view->dtype, Dtype::kBf16);
  for (size_t i = 0; i < exact.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, view->bytes.data() + 2 * i, 2);
    ASSERT_EQ(bits, FloatToBf16(exact[i])) << i;
  }
  EXPECT_EQ(json::parse(*ReadFile(out() / "config.json")).at("torch_dtype"), "bfloat16");
}

TEST_F(MergeTest, WithoutAnAdapterTheBaseIsWrittenInTheTypeAskedFor) {
  const absl::Status status = Merge("", {.dtype = Dtype::kBf16});
  ASSERT_TRUE(status.ok()) << status;
  const auto base = *SafetensorsFile::Open(kData / "tiny-llama" / "model.safetensors");
  ASSERT_EQ(Merged().tensors().size(), base.tensors().size());
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const std::vector<float> values = Floats(base, name);
  const SafetensorsFile merged = Merged();
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, merged.Find(name)->bytes.data() + 2 * i, sizeof(bits));
    ASSERT_EQ(bits, FloatToBf16(values[i])) << i;
  }
  EXPECT_EQ(json::parse(*ReadFile(out() / "config.json")).at("torch_dtype"), "bfloat16");
}

TEST_F(MergeTest, ShardsAreListedInTheIndexAndHoldTheSameBytes) {
  ASSERT_TRUE(Merge(kData / "tiny-adapter").ok());
  const fs::path one = folder_.path() / "one";
  fs::rename(out(), one);
  ASSERT_TRUE(Merge(kData / "tiny-adapter", {.max_shard_bytes = 50000}).ok());
  const auto whole = SafetensorsFile::Open(one / "model.safetensors");
  const json index = json::parse(*ReadFile(out() / kShardIndexName));
  EXPECT_EQ(index.at("weight_map").size(), whole->tensors().size());
  uint64_t total = 0;
  for (const auto& [name, file] : index.at("weight_map").items()) {
    const auto shard = SafetensorsFile::Open(out() / file.get<std::string>());
    ASSERT_TRUE(shard.ok()) << shard.status();
    EXPECT_EQ(shard->Find(name)->bytes, whole->Find(name)->bytes) << name;
    total += shard->Find(name)->bytes.size();
  }
  EXPECT_EQ(index.at("metadata").at("total_size"), total);
  EXPECT_TRUE(fs::exists(out() / "model-00001-of-00003.safetensors"));
  EXPECT_FALSE(fs::exists(out() / "model.safetensors"));
}

TEST(PlanShardsTest, ATensorLargerThanTheLimitIsAlone) {
  const std::vector<TensorSpec> tensors = {{"a", Dtype::kF32, {2}},
                                           {"b", Dtype::kF32, {100}},
                                           {"c", Dtype::kF32, {1}},
                                           {"d", Dtype::kF32, {1}}};
  const auto shards = PlanShards(tensors, 8);
  ASSERT_EQ(shards.size(), 3U);
  EXPECT_EQ(shards[1].tensors.size(), 1U);
  EXPECT_EQ(shards[2].file, "model-00003-of-00003.safetensors");
  EXPECT_EQ(shards[2].tensors.size(), 2U);
}

TEST_F(MergeTest, AnAdapterThatDoesNotFitIsRefusedAndNothingIsWritten) {
  const absl::Status rank = Merge(AdapterWith("r", 8));
  EXPECT_THAT(std::string(rank.message()), HasSubstr("has shape [4, 64]; the base"));
  fs::remove_all(folder_.path() / "adapter");
  const absl::Status dora = Merge(AdapterWith("use_dora", true));
  EXPECT_THAT(std::string(dora.message()), HasSubstr("lora_magnitude_vector"));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(MergeTest, UpdatesOfUnknownWeightsAndValuesThatAreNotFiniteAreRefused) {
  const std::string prefix = "base_model.model.model.layers.0.self_attn.";
  const float values[32] = {INFINITY};
  const absl::string_view bytes(reinterpret_cast<const char*>(values), sizeof(values));
  AdapterConfig config;
  config.rank = 1;
  config.target_modules = {"q_proj"};
  const auto write = [&](const std::string& module) {
    fs::remove_all(folder_.path() / "made");
    EXPECT_TRUE(WriteAdapter(folder_.path() / "made", config,
                             {{prefix + module + ".lora_A.weight", Dtype::kF32, {1, 32}, bytes},
                              {prefix + module + ".lora_B.weight", Dtype::kF32, {32, 1}, bytes}})
                    .ok());
    return std::string(Merge(folder_.path() / "made").message());
  };
  EXPECT_THAT(write("w_proj"), HasSubstr("which the base has not"));
  EXPECT_THAT(write("q_proj"), HasSubstr("'model.layers.0.self_attn.q_proj.weight', merged, has a "
                                         "value in row 0 that is not finite"));
}

}  // namespace
}  // namespace lathe
