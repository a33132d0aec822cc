#include "worker/engine/model/weights.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/file.h"
#include "tests/worker/engine/model/model_fixture.h"
#include "worker/formats/safetensors.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

// A copy of the tiny model whose tensor file a test writes anew from changed views.
class WeightsTest : public testing::Test {
 protected:
  WeightsTest()
      : folder_(*TempFolder::Make("weights-test")),
        source_(*SafetensorsFile::Open(DataFolder() / "tiny-llama" / "model.safetensors")),
        views_(source_.tensors()) {
    fs::copy_file(DataFolder() / "tiny-llama" / "config.json", folder_.path() / "config.json");
  }

  absl::Status Load() {
    const absl::Status written = WriteSafetensors(folder_.path() / "model.safetensors", views_);
    if (!written.ok()) return written;
    return LanguageModel::Load(folder_.path(), {}).status();
  }
  std::string Refusal() { return std::string(Load().message()); }
  TensorView& View(const std::string& name) {
    for (TensorView& view : views_) {
      if (view.name == name) return view;
    }
    ADD_FAILURE() << name;
    return views_[0];
  }

  TempFolder folder_;
  SafetensorsFile source_;
  std::vector<TensorView> views_;
};

TEST_F(WeightsTest, AMissingTensorIsNamedWithItsShape) {
  std::erase_if(views_, [](const TensorView& view) {
    return view.name == "model.layers.1.mlp.up_proj.weight";
  });
  EXPECT_THAT(Refusal(),
              AllOf(HasSubstr("'model.layers.1.mlp.up_proj.weight' is missing"), HasSubstr("32]")));
}

TEST_F(WeightsTest, AWrongShapeIsNamedWithBoth) {
  TensorView& view = View("model.layers.0.self_attn.k_proj.weight");
  std::swap(view.shape[0], view.shape[1]);
  EXPECT_THAT(Refusal(),
              AllOf(HasSubstr("'model.layers.0.self_attn.k_proj.weight' has shape [32, 16]"),
                    HasSubstr("[16, 32]")));
}

TEST_F(WeightsTest, AnExtraTensorIsNamed) {
  views_.push_back(views_.back());
  views_.back().name = "model.layers.2.input_layernorm.weight";
  EXPECT_THAT(Refusal(), HasSubstr("'model.layers.2.input_layernorm.weight' is not a parameter"));
}

TEST_F(WeightsTest, AnotherTypeIsNamed) {
  View("model.norm.weight").dtype = Dtype::kI32;
  EXPECT_THAT(Refusal(), HasSubstr("'model.norm.weight' is I32; a canonical folder has F32"));
}

TEST_F(WeightsTest, TheOrderOfTheFileDoesNotMatter) {
  std::reverse(views_.begin(), views_.end());
  ASSERT_TRUE(Load().ok());
  const auto reversed = LanguageModel::Load(folder_.path(), {});
  const PackedBatch batch = Document({1, 85, 91, 85, 86, 71, 79});
  EXPECT_TRUE(at::equal((*reversed)->Logits(batch, ""), LoadTiny(false)->Logits(batch, "")));
}

TEST_F(WeightsTest, AFolderWithoutWeightsIsNotFound) {
  EXPECT_EQ(LanguageModel::Load(folder_.path(), {}).status().code(), absl::StatusCode::kNotFound);
}

// The dequantised values, in a file of their own, make the same model.
TEST_F(WeightsTest, AQuantizedModelComputesWithTheDequantizedLinearWeights) {
  std::vector<at::Tensor> kept;
  for (TensorView& view : views_) {
    if (view.name.find("_proj.") == std::string::npos) continue;
    const at::Tensor weight =
        at::from_blob(const_cast<char*>(view.bytes.data()), view.shape, at::kFloat);
    kept.push_back(Dequantize(QuantizeNf4(weight.clone()), at::kFloat));
    EXPECT_GT((kept.back() - weight).abs().max().item<float>(), 0);
    view.bytes = {static_cast<const char*>(kept.back().const_data_ptr()), kept.back().nbytes()};
  }
  ASSERT_TRUE(Load().ok());
  const auto dequantized = LanguageModel::Load(folder_.path(), {.fp64 = true});
  const auto quantized = LanguageModel::Load(DataFolder() / "tiny-llama",
                                             {.fp64 = true, .storage = BaseStorage::kNf4});
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  const PackedBatch batch = Document({1, 85, 91, 85, 86, 71, 79});
  const auto difference = [&](const std::string& adapter) {
    return MaxDifference((*quantized)->Logits(batch, adapter),
                         (*dequantized)->Logits(batch, adapter));
  };
  EXPECT_LE(difference(""), 1e-12);
  ASSERT_TRUE((*quantized)->LoadAdapter("dora", DataFolder() / "tiny-adapter-dora").ok());
  ASSERT_TRUE((*dequantized)->LoadAdapter("dora", DataFolder() / "tiny-adapter-dora").ok());
  EXPECT_LE(difference("dora"), 1e-12);
}

// The rounded values, in a file of their own, make the same model.
TEST_F(WeightsTest, ABaseInBf16ComputesIn32BitsWithTheRoundedMatrices) {
  std::vector<at::Tensor> kept;
  for (TensorView& view : views_) {
    if (view.shape.size() == 1) continue;
    const at::Tensor weight =
        at::from_blob(const_cast<char*>(view.bytes.data()), view.shape, at::kFloat);
    kept.push_back(weight.to(at::kBFloat16).to(at::kFloat));
    EXPECT_GT((kept.back() - weight).abs().max().item<float>(), 0);
    view.bytes = {static_cast<const char*>(kept.back().const_data_ptr()), kept.back().nbytes()};
  }
  ASSERT_TRUE(Load().ok());
  const PackedBatch batch =
      Pack(RowsOf(ReadJson(DataFolder() / "goldens" / "training.json").at("rows")));
  for (const bool fp64 : {false, true}) {
    const double tolerance = fp64 ? 1e-12 : 1e-6;
    const auto rounded = *LanguageModel::Load(folder_.path(), {.fp64 = fp64});
    const auto held = *LanguageModel::Load(DataFolder() / "tiny-llama",
                                           {.fp64 = fp64, .storage = BaseStorage::kBf16});
    EXPECT_LE(MaxDifference(held->Logits(batch, ""), rounded->Logits(batch, "")), tolerance);
    for (const char* adapter : {"tiny-adapter", "tiny-adapter-dora"}) {
      ASSERT_TRUE(rounded->LoadAdapter(adapter, DataFolder() / adapter).ok());
      ASSERT_TRUE(held->LoadAdapter(adapter, DataFolder() / adapter).ok());
      const LossAndGradients expected = Differentiate(*rounded, {batch}, adapter);
      const LossAndGradients got = Differentiate(*held, {batch}, adapter);
      EXPECT_NEAR(got.loss, expected.loss, tolerance * expected.loss);
      for (size_t i = 0; i < got.gradients.size(); ++i) {
        EXPECT_LE(RelativeError(got.gradients[i], expected.gradients[i]), tolerance)
            << adapter << ", tensor " << i;
      }
    }
  }
}

struct Bytes {
  int64_t bytes = 0;
  int64_t values = 0;
  double PerValue() const { return static_cast<double>(bytes) / static_cast<double>(values); }
};

// What the tensors of the linear layers take, their scales included, and how many weights they are.
Bytes LinearBytes(const ModelWeights& weights, const ModelConfig& config) {
  Bytes total;
  for (const LayerWeights& layer : weights.layers) {
    for (const LinearGroup& group : layer.groups) {
      if (group.weight.defined()) total.bytes += static_cast<int64_t>(group.weight.nbytes());
      for (const Nf4Matrix& matrix : group.quantized) {
        for (const at::Tensor& part : {matrix.codes, matrix.scale_indices, matrix.nested}) {
          total.bytes += static_cast<int64_t>(part.nbytes());
        }
      }
    }
  }
  for (const LinearSpec& linear : LayoutOf(config).linears) {
    total.values += config.num_layers * linear.in_features * linear.out_features;
  }
  return total;
}

TEST_F(WeightsTest, FrozenLinearLayersTakeAtMostTheBytesThatTheirStorageAllows) {
  const fs::path model = DataFolder() / "tiny-llama";
  const auto config = LoadModelConfig(model);
  const auto load = [&](BaseStorage storage) {
    return *LoadWeights(model, *config, {.storage = storage});
  };
  const ModelWeights f32 = load(BaseStorage::kF32);
  const ModelWeights bf16 = load(BaseStorage::kBf16);
  const ModelWeights nf4 = load(BaseStorage::kNf4);
  const ModelWeights both = load(BaseStorage::kNf4Bf16);
  EXPECT_EQ(LinearBytes(f32, *config).PerValue(), 4);
  EXPECT_EQ(LinearBytes(bf16, *config).PerValue(), 2);
  EXPECT_LE(LinearBytes(nf4, *config).PerValue(), 0.6);
  EXPECT_EQ(LinearBytes(both, *config).bytes, LinearBytes(nf4, *config).bytes);
  for (const ModelWeights* weights : {&f32, &nf4}) {
    EXPECT_EQ(weights->embedding.scalar_type(), at::kFloat);
  }
  for (const ModelWeights* weights : {&bf16, &both}) {
    EXPECT_EQ(weights->embedding.scalar_type(), at::kBFloat16);
    EXPECT_EQ(weights->head.data_ptr(), weights->embedding.data_ptr());  // Tied.
  }
}

TEST(BaseStorageTest, AnotherNameIsRefusedWithThoseThatThereAre) {
  EXPECT_EQ(*ParseBaseStorage("nf4+bf16"), BaseStorage::kNf4Bf16);
  EXPECT_THAT(std::string(ParseBaseStorage("int8").status().message()),
              HasSubstr("'int8'; must be f32, bf16, nf4 or nf4+bf16"));
}

// A file in canonical order has q_proj, k_proj and v_proj side by side.
TEST_F(WeightsTest, LayersOfAGroupAreOneViewOfTheMapping) {
  const auto config = LoadModelConfig(folder_.path());
  std::vector<TensorView> canonical;
  for (const ParameterSpec& spec : ParameterSpecs(*config)) canonical.push_back(View(spec.name));
  views_ = canonical;
  ASSERT_TRUE(Load().ok());
  const auto weights = LoadWeights(folder_.path(), *config, {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  for (const auto& [projection, first] : {std::pair(Projection::kQkv, "self_attn.q_proj"),
                                          std::pair(Projection::kGateUp, "mlp.gate_proj")}) {
    const LinearGroup& group = weights->layers[1].groups[static_cast<size_t>(projection)];
    const TensorView* mapped =
        weights->file.Find(std::string("model.layers.1.") + first + ".weight");
    EXPECT_EQ(group.weight.const_data_ptr(), mapped->bytes.data()) << first;
  }
  EXPECT_THAT(weights->layers[0].groups[0].out_features, testing::ElementsAre(32, 16, 16));
  EXPECT_EQ(weights->embedding.data_ptr(), weights->head.data_ptr());  // Tied.
}

}  // namespace
}  // namespace lathe
