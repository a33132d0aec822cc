// Activation checkpointing: the same bits from fewer bytes.

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <utility>

#include "tests/worker/engine/model/model_fixture.h"

namespace lathe {
namespace {

// What the thread's tensors hold on the CPU: libtorch's allocator reports to it.
class HeldBytes final : public c10::MemoryReportingInfoBase {
 public:
  int64_t count() const { return count_; }
  void reportMemoryUsage(void* /*pointer*/, int64_t size, size_t /*allocated*/, size_t /*reserved*/,
                         c10::Device /*device*/) override {
    count_ += size;
  }
  bool memoryProfilingEnabled() const override { return true; }

 private:
  int64_t count_ = 0;
};

struct Case {
  const char* name;
  LoraOptions lora;
  BaseStorage storage = BaseStorage::kF32;
  bool bf16_compute = false;
};

std::unique_ptr<LanguageModel> Load(const Case& test, bool checkpointing) {
  auto model =
      LanguageModel::Load(DataFolder() / "tiny-llama", {.storage = test.storage,
                                                        .bf16_compute = test.bf16_compute,
                                                        .activation_checkpointing = checkpointing});
  EXPECT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->AddAdapter("new", test.lora, 7).ok());
  at::Generator numbers = at::detail::createCPUGenerator(3);
  for (const AdapterTensor& entry : (*model)->AdapterTensors("new")) {
    entry.tensor.detach().normal_(0.2, 0.1, numbers);  // B too, or A has no gradient.
  }
  return *std::move(model);
}

PackedBatch SomeBatch() {
  return Pack(RowsOf(ReadJson(DataFolder() / "goldens" / "training.json").at("rows")));
}

class CheckpointTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Methods, CheckpointTest,
                         testing::Values(Case{"Lora", {}}, Case{"Dropout", {.dropout = 0.3}},
                                         Case{"Dora", {.dropout = 0.2, .dora = true}},
                                         Case{"FourBits", {.dropout = 0.1}, BaseStorage::kNf4},
                                         Case{"SixteenBits",
                                              {.dropout = 0.1, .dora = true},
                                              BaseStorage::kNf4Bf16,
                                              /*bf16_compute=*/true},
                                         Case{"OneModuleOfOneLayer",
                                              {.target_modules = {"layers.1.mlp.up_proj"}}}),
                         [](const auto& test) { return test.param.name; });

TEST_P(CheckpointTest, LossAndGradientsHaveTheSameBits) {
  const std::vector<PackedBatch> batches = {SomeBatch(), SomeBatch()};
  const auto differentiate = [&](bool checkpointing) {
    return Differentiate(*Load(GetParam(), checkpointing), batches, "new", /*training=*/true, 11);
  };
  const LossAndGradients plain = differentiate(false);
  const LossAndGradients checkpointed = differentiate(true);
  EXPECT_EQ(checkpointed.loss, plain.loss);
  ASSERT_EQ(checkpointed.gradients.size(), plain.gradients.size());
  for (size_t i = 0; i < plain.gradients.size(); ++i) {
    EXPECT_GT(plain.gradients[i].abs().max().item<float>(), 0) << "tensor " << i;
    EXPECT_TRUE(at::equal(checkpointed.gradients[i], plain.gradients[i])) << "tensor " << i;
  }
}

TEST_P(CheckpointTest, OnlyTheInputOfEveryLayerIsHeldBetweenForwardAndBackward) {
  const PackedBatch batch = SomeBatch();
  const auto held = [&](bool checkpointing) {
    const auto model = Load(GetParam(), checkpointing);
    const auto counter = std::make_shared<HeldBytes>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
    const at::Tensor loss = model->LossSum(batch, "new", /*training=*/true, 11);
    return std::pair(counter->count(), model->config());
  };
  const auto [checkpointed, config] = held(true);
  const auto num_tokens = static_cast<int64_t>(batch.ids.size());
  const auto num_labels = static_cast<int64_t>(batch.labels.size());
  const int64_t inputs = config.num_layers * num_tokens * config.hidden_size;
  const int64_t rope = num_tokens * config.head_dim;
  // Of the final norm, the loss and their index tensors: per label, whatever the layers.
  const int64_t head = num_labels * (3 * config.hidden_size + 8);
  EXPECT_GE(checkpointed, (GetParam().bf16_compute ? 2 : 4) * inputs);
  EXPECT_LE(checkpointed, 4 * (inputs + rope + head));
  EXPECT_GT(held(false).first, 2 * checkpointed);
}

}  // namespace
}  // namespace lathe
