#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "common/base/file.h"
#include "tests/worker/engine/model/model_fixture.h"
#include "worker/formats/peft.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

std::vector<TensorView> Views(const std::vector<AdapterTensor>& tensors) {
  std::vector<TensorView> views;
  for (const AdapterTensor& tensor : tensors) {
    views.push_back({tensor.name, Dtype::kF32, tensor.tensor.sizes().vec(),
                     absl::string_view(static_cast<const char*>(tensor.tensor.data_ptr()),
                                       tensor.tensor.nbytes())});
  }
  return views;
}

PackedBatch SomeBatch() {
  return Pack(RowsOf(ReadJson(DataFolder() / "goldens" / "batch.json").at("rows")));
}

TEST(AddAdapterTest, StartsAsTheBaseWithUniformAAndZeroB) {
  const auto model = LoadTiny(/*fp64=*/false);
  ASSERT_TRUE(model->AddAdapter("new", {.rank = 16}, 7).ok());
  double sum = 0;
  double squares = 0;
  double count = 0;
  for (const AdapterTensor& tensor : model->AdapterTensors("new")) {
    EXPECT_TRUE(tensor.tensor.requires_grad() && tensor.tensor.is_leaf()) << tensor.name;
    if (tensor.name.find("lora_B") != std::string::npos) {
      EXPECT_EQ(tensor.tensor.abs().max().item<float>(), 0) << tensor.name;
      continue;
    }
    const at::Tensor unit = tensor.tensor.detach().to(at::kDouble) *
                            std::sqrt(static_cast<double>(tensor.tensor.size(1)));
    EXPECT_LE(unit.abs().max().item<double>(), 1 + 1e-6) << tensor.name;
    EXPECT_GT(unit.abs().max().item<double>(), 0.95) << tensor.name;
    sum += unit.sum().item<double>();
    squares += unit.square().sum().item<double>();
    count += static_cast<double>(unit.numel());
  }
  // U(-1, 1): mean 0, variance 1/3; five standard errors.
  EXPECT_NEAR(sum / count, 0, 5 * std::sqrt(1 / 3.0 / count));
  EXPECT_NEAR(squares / count, 1 / 3.0, 5 * std::sqrt(4 / 45.0 / count));
  const PackedBatch batch = SomeBatch();
  EXPECT_TRUE(at::equal(model->Logits(batch, "new"), model->Logits(batch, "")));
}

TEST(AddAdapterTest, TheSeedAloneDecidesTheBits) {
  const auto model = LoadTiny(/*fp64=*/false);
  ASSERT_TRUE(model->AddAdapter("a", {}, 1).ok());
  ASSERT_TRUE(LoadTiny(false)->AddAdapter("b", {}, 1).ok());
  ASSERT_TRUE(model->AddAdapter("b", {}, 1).ok());
  ASSERT_TRUE(model->AddAdapter("c", {}, 2).ok());
  const auto a = model->AdapterTensors("a");
  const auto b = model->AdapterTensors("b");
  const auto c = model->AdapterTensors("c");
  std::set<float> first_numbers;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(at::equal(a[i].tensor, b[i].tensor)) << a[i].name;
    if (i % 2 == 1) continue;
    EXPECT_FALSE(at::equal(a[i].tensor, c[i].tensor)) << a[i].name;
    first_numbers.insert(a[i].tensor.flatten()[0].item<float>() *
                         std::sqrt(static_cast<float>(a[i].tensor.size(1))));
  }
  EXPECT_EQ(first_numbers.size(), a.size() / 2);  // No two tensors share a stream.
}

TEST(AddAdapterTest, ListedModulesAloneGetTensors) {
  const auto model = LoadTiny(/*fp64=*/false);
  ASSERT_TRUE(model->AddAdapter("some", {.target_modules = {"v_proj", "down_proj"}}, 1).ok());
  std::vector<std::string> names;
  for (const AdapterTensor& tensor : model->AdapterTensors("some")) names.push_back(tensor.name);
  EXPECT_THAT(names, testing::SizeIs(8));
  EXPECT_EQ(names[0], "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight");
  EXPECT_EQ(names[7], "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight");
  EXPECT_THAT(model->GetAdapterConfig("some").target_modules,
              testing::ElementsAre("down_proj", "v_proj"));
  const auto result = Differentiate(*model, {SomeBatch()}, "some");
  EXPECT_GT(result.gradients[7].abs().max().item<float>(), 0);
}

TEST(AddAdapterTest, APathSelectsAModuleOfOneLayer) {
  const auto model = LoadTiny(/*fp64=*/false);
  const LoraOptions options = {.target_modules = {"layers.1.mlp.up_proj", "self_attn.q_proj"}};
  ASSERT_TRUE(model->AddAdapter("some", options, 1).ok());
  std::vector<std::string> names;
  for (const AdapterTensor& tensor : model->AdapterTensors("some")) names.push_back(tensor.name);
  const std::string layer = "base_model.model.model.layers.";
  EXPECT_THAT(names, testing::ElementsAre(layer + "0.self_attn.q_proj.lora_A.weight",
                                          layer + "0.self_attn.q_proj.lora_B.weight",
                                          layer + "1.self_attn.q_proj.lora_A.weight",
                                          layer + "1.self_attn.q_proj.lora_B.weight",
                                          layer + "1.mlp.up_proj.lora_A.weight",
                                          layer + "1.mlp.up_proj.lora_B.weight"));
}

// B A is linear in alpha: rank 4, alpha 8 has the scale 2, and so has alpha 4 over the root of 4.
TEST(AddAdapterTest, RankStabilisedScaleDividesByTheRootOfTheRank) {
  const auto model = LoadTiny(/*fp64=*/true);
  ASSERT_TRUE(model->AddAdapter("stable", {.rank = 4, .alpha = 4, .rslora = true}, 1).ok());
  const auto source = model->AdapterTensors("tuned");
  const auto target = model->AdapterTensors("stable");
  for (size_t i = 0; i < source.size(); ++i) target[i].tensor.detach().copy_(source[i].tensor);
  const PackedBatch batch = SomeBatch();
  EXPECT_TRUE(at::equal(model->Logits(batch, "stable"), model->Logits(batch, "tuned")));
  EXPECT_TRUE(model->GetAdapterConfig("stable").rslora);
}

TEST(AddAdapterTest, RefusesWhatIsOutOfRangeByName) {
  const auto model = LoadTiny(/*fp64=*/false);
  EXPECT_THAT(Message(model->AddAdapter("x", {.rank = 0}, 1)), HasSubstr("lora.rank is 0"));
  EXPECT_THAT(Message(model->AddAdapter("x", {.rank = 257}, 1)), HasSubstr("[1, 256]"));
  EXPECT_THAT(Message(model->AddAdapter("x", {.dropout = 1}, 1)), HasSubstr("lora.dropout is 1"));
  EXPECT_THAT(Message(model->AddAdapter("x", {.alpha = NAN}, 1)), HasSubstr("lora.alpha is nan"));
  EXPECT_THAT(Message(model->AddAdapter("x", {.target_modules = {"lm_head"}}, 1)),
              testing::AllOf(HasSubstr("'lm_head'"), HasSubstr("all-linear, q_proj")));
  EXPECT_THAT(Message(model->AddAdapter("x", {.target_modules = {"layers.2.mlp.up_proj"}}, 1)),
              HasSubstr("'layers.2.mlp.up_proj'"));
  EXPECT_THAT(Message(model->AddAdapter("x", {.target_modules = {}}, 1)), HasSubstr("is empty"));
  EXPECT_EQ(model->AddAdapter("tuned", {}, 1).code(), absl::StatusCode::kAlreadyExists);
}

TEST(AddAdapterTest, DoraStartsAsTheBaseWithTheTensorsOfPeft) {
  const auto model = LoadTiny(/*fp64=*/false);
  ASSERT_TRUE(model->AddAdapter("new", {.rank = 4, .dora = true}, 7).ok());
  const auto file =
      SafetensorsFile::Open(DataFolder() / "tiny-adapter-dora/adapter_model.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tensors = model->AdapterTensors("new");
  EXPECT_EQ(tensors.size(), file->tensors().size());
  for (const AdapterTensor& tensor : tensors) {
    const TensorView* theirs = file->Find(tensor.name);
    ASSERT_NE(theirs, nullptr) << tensor.name;
    EXPECT_EQ(theirs->shape, tensor.tensor.sizes().vec()) << tensor.name;
  }
  const PackedBatch batch = SomeBatch();
  EXPECT_TRUE(at::equal(model->Logits(batch, "new"), model->Logits(batch, "")));
}

TEST(DropoutTest, IsAFunctionOfTheSeedAndOnlyInTraining) {
  const auto model = LoadTiny(/*fp64=*/true);
  ASSERT_TRUE(model->AddAdapter("dropped", {.rank = 4, .alpha = 8, .dropout = 0.5}, 1).ok());
  const auto source = model->AdapterTensors("tuned");
  const auto target = model->AdapterTensors("dropped");
  for (size_t i = 0; i < source.size(); ++i) target[i].tensor.detach().copy_(source[i].tensor);
  const PackedBatch batch = SomeBatch();
  const double plain = model->LossSum(batch, "tuned", true, 1).item<double>();
  const double one = model->LossSum(batch, "dropped", true, 1).item<double>();
  EXPECT_EQ(one, model->LossSum(batch, "dropped", true, 1).item<double>());
  EXPECT_NE(one, model->LossSum(batch, "dropped", true, 2).item<double>());
  EXPECT_NE(one, plain);
  EXPECT_NEAR(model->LossSum(batch, "dropped", false, 1).item<double>(), plain, 1e-9);
}

// Central differences along the gradient: the masks of backward are those of forward.
TEST(DropoutTest, GradientIsTheSlopeOfTheLossWithTheSameMask) {
  const auto model = LoadTiny(/*fp64=*/true);
  ASSERT_TRUE(model->AddAdapter("dropped", {.rank = 4, .alpha = 8, .dropout = 0.3}, 1).ok());
  const auto source = model->AdapterTensors("tuned");
  const auto tensors = model->AdapterTensors("dropped");
  for (size_t i = 0; i < source.size(); ++i) tensors[i].tensor.detach().copy_(source[i].tensor);
  const PackedBatch batch = SomeBatch();
  const auto result = Differentiate(*model, {batch}, "dropped", true, 9);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor direction = result.gradients[i] / result.gradients[i].norm();
    const double step = 1e-5;
    const auto loss_at = [&](double distance) {
      tensors[i].tensor.detach().add_(direction, distance);
      const double loss = model->LossSum(batch, "dropped", true, 9).item<double>();
      tensors[i].tensor.detach().add_(direction, -distance);
      return loss;
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
    const double norm = result.gradients[i].norm().item<double>();
    EXPECT_NEAR(slope, norm, 1e-5 * norm) << tensors[i].name;
  }
}

class AdapterFolderTest : public testing::Test {
 protected:
  AdapterFolderTest() : folder_(*TempFolder::Make("adapter-test")), model_(LoadTiny(false)) {}

  // The golden adapter's folder, to be damaged.
  fs::path CopyOfGolden() {
    const fs::path dir = folder_.path() / "copy";
    fs::copy(DataFolder() / "tiny-adapter", dir);
    return dir;
  }
  absl::Status Write(const std::vector<TensorView>& tensors) {
    return WriteAdapter(folder_.path() / "written", model_->GetAdapterConfig("tuned"), tensors);
  }
  absl::Status LoadWritten() { return model_->LoadAdapter("again", folder_.path() / "written"); }

  TempFolder folder_;
  std::unique_ptr<LanguageModel> model_;
};

TEST_F(AdapterFolderTest, WhatWriteAdapterWritesLoadsToTheSameBits) {
  const auto tensors = model_->AdapterTensors("tuned");
  ASSERT_TRUE(Write(Views(tensors)).ok());
  ASSERT_TRUE(LoadWritten().ok());
  const auto again = model_->AdapterTensors("again");
  ASSERT_EQ(again.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(again[i].name, tensors[i].name);
    EXPECT_TRUE(at::equal(again[i].tensor, tensors[i].tensor)) << tensors[i].name;
  }
  EXPECT_EQ(model_->GetAdapterConfig("again").rank, 4);
  EXPECT_EQ(model_->GetAdapterConfig("again").alpha, 8);
}

TEST_F(AdapterFolderTest, AMissingExtraOrMisshapenTensorIsRefusedByName) {
  auto views = Views(model_->AdapterTensors("tuned"));
  const TensorView last = views.back();
  views.pop_back();
  ASSERT_TRUE(Write(views).ok());
  EXPECT_THAT(Message(LoadWritten()),
              testing::AllOf(HasSubstr(last.name), HasSubstr("is missing")));
  fs::remove_all(folder_.path() / "written");
  views.push_back(last);
  views.back().shape = {last.shape[1], last.shape[0]};
  ASSERT_TRUE(Write(views).ok());
  EXPECT_THAT(Message(LoadWritten()), HasSubstr("has shape [4, 32]; this model"));
  fs::remove_all(folder_.path() / "written");
  views.back() = last;
  views.push_back(last);
  views.back().name = "base_model.model.model.layers.2.mlp.down_proj.lora_B.weight";
  ASSERT_TRUE(Write(views).ok());
  EXPECT_THAT(Message(LoadWritten()),
              HasSubstr("layers.2.mlp.down_proj.lora_B.weight' is none of"));
}

TEST_F(AdapterFolderTest, VariantsThatWouldComputeSomethingElseAreRefusedByName) {
  const fs::path dir = CopyOfGolden();
  for (const char* key : {"fan_in_fan_out", "lora_bias"}) {
    auto config = ReadJson(DataFolder() / "tiny-adapter" / "adapter_config.json");
    config[key] = true;
    std::ofstream(dir / "adapter_config.json") << config.dump();
    EXPECT_THAT(Message(model_->LoadAdapter("bad", dir)), HasSubstr(key));
  }
}

TEST_F(AdapterFolderTest, AnUnknownTargetModuleIsRefusedByName) {
  const fs::path dir = CopyOfGolden();
  auto config = ReadJson(dir / "adapter_config.json");
  config["target_modules"] = {"q_proj", "embed_tokens"};
  std::ofstream(dir / "adapter_config.json") << config.dump();
  EXPECT_THAT(Message(model_->LoadAdapter("bad", dir)), HasSubstr("'embed_tokens'"));
}

TEST_F(AdapterFolderTest, ARemovedAdapterIsUnknown) {
  model_->RemoveAdapter("tuned");
  EXPECT_THROW(model_->AdapterTensors("tuned"), c10::Error);
  EXPECT_THROW(model_->Logits(SomeBatch(), "tuned"), c10::Error);
}

}  // namespace
}  // namespace lathe
