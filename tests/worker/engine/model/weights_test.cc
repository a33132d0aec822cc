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
    return CausalLm::Load(folder_.path(), {}).status();
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
  const auto reversed = CausalLm::Load(folder_.path(), {});
  const PackedBatch batch = Document({1, 85, 91, 85, 86, 71, 79});
  EXPECT_TRUE(at::equal((*reversed)->Logits(batch, ""), LoadTiny(false)->Logits(batch, "")));
}

TEST_F(WeightsTest, AFolderWithoutWeightsIsNotFound) {
  EXPECT_EQ(CausalLm::Load(folder_.path(), {}).status().code(), absl::StatusCode::kNotFound);
}

// The first q_proj, k_proj and v_proj lie side by side in a canonical file.
TEST(LoadWeightsTest, LayersOfAGroupAreOneViewOfTheMapping) {
  const auto config = LoadModelConfig(DataFolder() / "tiny-llama");
  const auto weights = LoadWeights(DataFolder() / "tiny-llama", *config, {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  const char* mapped = weights->file.Find("model.layers.0.self_attn.q_proj.weight")->bytes.data();
  const LinearGroup& qkv = weights->layers[0].groups[static_cast<size_t>(Projection::kQkv)];
  EXPECT_THAT(qkv.out_features, testing::ElementsAre(32, 16, 16));
  EXPECT_EQ(qkv.weight.size(0), 64);
  if (weights->file.Find("model.layers.0.self_attn.k_proj.weight")->bytes.data() ==
      mapped + qkv.out_features[0] * 32 * 4) {
    EXPECT_EQ(qkv.weight.data_ptr(), mapped);
  }
}

}  // namespace
}  // namespace lathe
