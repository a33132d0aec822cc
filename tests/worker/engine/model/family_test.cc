#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/file.h"
#include "tests/worker/engine/model/model_fixture.h"
#include "worker/engine/model/adapter.h"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/import.h"

// Every family, imported from its own Hugging Face layout, against transformers (ChatGLM3: a
// reference that is proved on transformers' Glm) and PEFT.

namespace lathe {
namespace {

namespace fs = std::filesystem;

struct Precision {
  bool fp64;
  const char* suffix;
  double logits;    // Largest difference allowed.
  double loss;      // Relative.
  double gradient;  // Of a tensor's norm.
};
constexpr Precision kF32 = {false, "f32", 1e-5, 1e-6, 1e-3};
constexpr Precision kF64 = {true, "f64", 1e-12, 1e-12, 1e-9};

using Parameter = std::tuple<const char*, Precision>;

class FamilyTest : public testing::TestWithParam<Parameter> {
 protected:
  FamilyTest() : temp_(*TempFolder::Make("family-test")) {}

  static Precision precision() { return std::get<1>(GetParam()); }
  static fs::path Source() { return DataFolder() / "families" / std::get<0>(GetParam()); }
  static at::Tensor Golden(const std::string& name) {
    return ReadTensor(Source() / "golden.safetensors", name);
  }

  // The folder of the imported model.
  fs::path Import() const {
    const fs::path folder = temp_.path() / "source";
    fs::create_directories(folder);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}) {
      fs::copy_file(DataFolder() / "tiny-llama" / name, folder / name);
    }
    for (const auto& entry : fs::directory_iterator(Source())) {
      if (entry.is_regular_file()) fs::copy_file(entry, folder / entry.path().filename());
    }
    fs::remove(folder / "golden.safetensors");
    fs::remove(folder / "full.safetensors");
    const auto imported = ImportModel(folder, temp_.path() / "model", nullptr);
    EXPECT_TRUE(imported.ok()) << imported.status();
    return temp_.path() / "model";
  }

  // The imported model with the source's adapter as "tuned".
  // `narrow`: with all that a GPU has in 16 bits.
  std::unique_ptr<LanguageModel> Load(bool narrow = false) const {
    auto model =
        LanguageModel::Load(Import(), {.fp64 = precision().fp64,
                                       .storage = narrow ? BaseStorage::kBf16 : BaseStorage::kF32,
                                       .bf16_compute = narrow});
    EXPECT_TRUE(model.ok()) << model.status();
    const absl::Status status = (*model)->LoadAdapter("tuned", Source() / "adapter");
    EXPECT_TRUE(status.ok()) << status;
    return *std::move(model);
  }

  static Row GoldenRow() {
    const at::Tensor ids = Golden("ids");
    const at::Tensor trained = Golden("trained");
    Row row;
    for (int64_t t = 0; t < ids.size(0); ++t) {
      row.ids.push_back(ids[t].item<int32_t>());
      row.trained.push_back(static_cast<uint8_t>(trained[t].item<int32_t>()));
    }
    return row;
  }

  TempFolder temp_;
};

INSTANTIATE_TEST_SUITE_P(Families, FamilyTest,
                         testing::Combine(testing::Values("llama3", "mistral", "qwen2", "qwen3",
                                                          "chatglm3"),
                                          testing::Values(kF32, kF64)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" +
                                  std::get<1>(test.param).suffix;
                         });

TEST_P(FamilyTest, LogitsAreThoseOfTransformers) {
  const auto model = Load();
  const PackedBatch batch = Document(GoldenRow().ids);
  const at::Tensor positions = Golden("positions").to(at::kLong);
  for (const auto& [name, adapter] : {std::pair("base", ""), std::pair("adapter", "tuned")}) {
    if (precision().fp64 && *adapter == '\0') continue;  // The golden has no such tensor.
    const at::Tensor ours = model->Logits(batch, adapter).index_select(0, positions);
    const at::Tensor theirs = Golden(std::string(name) + "." + precision().suffix);
    EXPECT_LE(MaxDifference(ours, theirs), precision().logits) << name;
  }
}

TEST_P(FamilyTest, LossAndGradientOfEveryAdapterTensorAreThoseOfPeft) {
  const auto model = Load();
  const auto ours = Differentiate(*model, {Pack({GoldenRow()})}, "tuned");
  const double loss = Golden("loss_sum").item<double>();
  EXPECT_NEAR(ours.loss, loss, precision().loss * loss);
  const auto tensors = model->AdapterTensors("tuned");
  const size_t num_linears = LayoutOf(model->config()).linears.size();
  ASSERT_EQ(tensors.size(), static_cast<size_t>(model->config().num_layers) * num_linears * 2U);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor theirs = Golden("gradient." + tensors[i].name);
    EXPECT_LE(RelativeError(ours.gradients[i], theirs), precision().gradient) << tensors[i].name;
  }
}

TEST_P(FamilyTest, CachedDecodingGivesTheLogitsOfAFullPass) {
  const auto model = Load();
  const std::vector<int32_t> ids = GoldenRow().ids;
  const at::Tensor full = model->Logits(Document(ids), "tuned");
  const auto cache = model->NewCache();
  for (size_t begin = 0; begin < ids.size(); begin += 5) {
    const size_t end = std::min(begin + 5, ids.size());
    const at::Tensor last = model->Extend(
        *cache,
        {ids.begin() + static_cast<int64_t>(begin), ids.begin() + static_cast<int64_t>(end)},
        "tuned");
    EXPECT_LE(MaxDifference(last, full[static_cast<int64_t>(end) - 1]), precision().logits);
  }
}

// Norms of heads and a tied head; biases, fused layers and a head of its own.
class FullTuningTest : public FamilyTest {};
INSTANTIATE_TEST_SUITE_P(Families, FullTuningTest,
                         testing::Combine(testing::Values("qwen3", "chatglm3"),
                                          testing::Values(kF32, kF64)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" +
                                  std::get<1>(test.param).suffix;
                         });

TEST_P(FullTuningTest, GradientOfEveryParameterIsThatOfTransformers) {
  const auto model = LoadTrainable(Import(), precision().fp64);
  ExpectParameterGradients(Source() / "full.safetensors", *model, Pack({GoldenRow()}),
                           precision().loss, precision().gradient);
}

// The rounding of 16 bits and no more: the operations that a GPU runs, on the CPU.
TEST_P(FamilyTest, SixteenBitComputeStaysNearTheReference) {
  if (precision().fp64) return;  // The other precision is the one that is replaced.
  const auto model = Load(/*narrow=*/true);
  const std::vector<int32_t> ids = GoldenRow().ids;
  const at::Tensor positions = Golden("positions").to(at::kLong);
  const at::Tensor full = model->Logits(Document(ids), "tuned");
  EXPECT_EQ(full.scalar_type(), at::kFloat);
  const double error = RelativeError(full.index_select(0, positions), Golden("adapter.f32"));
  EXPECT_LE(error, 0.03);
  EXPECT_GT(error, 1e-4);  // They are 16 bits.
  const auto cache = model->NewCache();
  EXPECT_LE(RelativeError(model->Extend(*cache, ids, "tuned"), full[-1]), 0.03);
  const auto ours = Differentiate(*model, {Pack({GoldenRow()})}, "tuned");
  const double loss = Golden("loss_sum").item<double>();
  EXPECT_NEAR(ours.loss, loss, 0.01 * loss);
  const auto tensors = model->AdapterTensors("tuned");
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(ours.gradients[i].scalar_type(), at::kFloat);
    EXPECT_LE(RelativeError(ours.gradients[i], Golden("gradient." + tensors[i].name)), 0.15)
        << tensors[i].name;
  }
}

TEST(FamilyTargetTest, TargetsAreTheModulesOfTheFamily) {
  ModelConfig config = *LoadModelConfig(DataFolder() / "families" / "chatglm3");
  LoraOptions options;
  const auto adapter = MakeAdapter(config, options, /*seed=*/1, at::kFloat, /*base=*/{});
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_THAT(adapter->config.target_modules,
              testing::ElementsAre("dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"));
  options.target_modules = {"q_proj"};
  EXPECT_THAT(std::string(MakeAdapter(config, options, 1, at::kFloat, {}).status().message()),
              testing::HasSubstr("'q_proj'; allowed are all-linear, query_key_value, dense, "
                                 "dense_h_to_4h, dense_4h_to_h, alone"));
}

}  // namespace
}  // namespace lathe
