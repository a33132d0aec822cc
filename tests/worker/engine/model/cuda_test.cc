// What a GPU computes, beside what the CPU does. Skipped where there is none: docs/gpu.md.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/testing/subprocess.h"
#include "tests/worker/engine/model/model_fixture.h"
#include "worker/engine/dist/communicator.h"
#include "worker/engine/dist/nccl_plugin.h"
#include "worker/engine/ops/attention.h"
#include "worker/engine/ops/lora_linear.h"
#include "worker/engine/ops/nf4_matrix.h"
#include "worker/engine/ops/staging.h"
#include "worker/engine/train/optimizer.h"

namespace lathe {
namespace {

const at::Device kGpu(at::kCUDA, 0);

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto plugin = OpenNcclPlugin(testing::Program("liblathe_nccl.so"));
    ASSERT_TRUE(plugin.ok()) << plugin.status();
    const CudaDevices devices = (*plugin)->Devices();
    if (devices.count == 0) GTEST_SKIP() << "no GPU: " << devices.reason;
  }
};

std::unique_ptr<LanguageModel> Load(const std::string& adapter, ModelOptions options) {
  auto model = LanguageModel::Load(DataFolder() / "tiny-llama", options);
  EXPECT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->LoadAdapter("tuned", DataFolder() / adapter).ok());
  return *std::move(model);
}

PackedBatch SomeBatch() {
  return Pack(RowsOf(ReadJson(DataFolder() / "goldens" / "training.json").at("rows")));
}

// Logits, loss and gradients of the same model on both.
void ExpectSame(const std::string& adapter, ModelOptions options, double tolerance) {
  const auto cpu = Load(adapter, options);
  options.cuda_device = 0;
  const auto gpu = Load(adapter, options);
  const PackedBatch batch = SomeBatch();
  EXPECT_LE(RelativeError(gpu->Logits(batch, "tuned"), cpu->Logits(batch, "tuned")), tolerance);
  const LossAndGradients expected = Differentiate(*cpu, {batch}, "tuned");
  const LossAndGradients got = Differentiate(*gpu, {batch}, "tuned");
  EXPECT_NEAR(got.loss, expected.loss, tolerance * expected.loss);
  for (size_t i = 0; i < got.gradients.size(); ++i) {
    EXPECT_LE(RelativeError(got.gradients[i].cpu(), expected.gradients[i]), 10 * tolerance)
        << adapter << ", tensor " << i;
  }
}

TEST_F(CudaTest, In64BitsTheModelIsThatOfTheCpu) {
  ExpectSame("tiny-adapter", {.fp64 = true}, 1e-10);
  ExpectSame("tiny-adapter-dora", {.fp64 = true}, 1e-10);
}

TEST_F(CudaTest, In32BitsTheModelIsThatOfTheCpu) {
  ExpectSame("tiny-adapter", {}, 1e-5);
  ExpectSame("tiny-adapter-dora", {}, 1e-5);
  ExpectSame("tiny-adapter", {.storage = BaseStorage::kNf4}, 1e-5);
  ExpectSame("tiny-adapter", {.activation_checkpointing = true}, 1e-5);
}

// The CPU rounds where the GPU does, but its sums have another order.
TEST_F(CudaTest, In16BitsTheModelIsThatOfTheCpuInSixteenBits) {
  ExpectSame("tiny-adapter", {.storage = BaseStorage::kBf16, .bf16_compute = true}, 2e-2);
  ExpectSame("tiny-adapter", {.storage = BaseStorage::kNf4Bf16, .bf16_compute = true}, 2e-2);
}

TEST_F(CudaTest, DropoutDrawsTheBitsOfTheCpu) {
  const at::Tensor host = at::empty({37, 129}, at::kFloat);
  EXPECT_TRUE(at::equal(DropoutMask(host.to(kGpu), 0.3, 7, 2).cpu(), DropoutMask(host, 0.3, 7, 2)));
}

TEST_F(CudaTest, FourBitCodesStandForTheSameNumbers) {
  const Nf4Matrix matrix = QuantizeNf4(at::randn({96, 80}, at::kFloat));
  EXPECT_LE(MaxDifference(Dequantize(ToDevice(matrix, kGpu), at::kFloat).cpu(),
                          Dequantize(matrix, at::kFloat)),
            1e-7);
}

// FlashAttention against the plain operations in 32 bits.
TEST_F(CudaTest, FlashAttentionSeesDocumentsByTheirLengths) {
  const HeadShape shape = {.num_heads = 4, .num_kv_heads = 2, .head_dim = 64};
  const std::vector<int32_t> begin = {0, 300, 301, 640};
  const at::Tensor qkv = at::randn({640, 8 * 64}, at::kFloat).to(at::kBFloat16).to(at::kFloat);
  const at::Tensor frequencies = at::rand({32}, at::kFloat);
  const auto run = [&](const at::Device& device, at::ScalarType dtype) {
    const at::Tensor positions = at::arange(640, at::TensorOptions().dtype(at::kLong));
    const RopeTable wide = MakeRopeTable(positions.to(device), frequencies.to(device), false);
    const RopeTable rope = {wide.cos.to(dtype), wide.sin.to(dtype), false};
    const at::Tensor in = qkv.to(device, dtype).set_requires_grad(true);
    const at::Tensor out = PackedAttention(in, rope, shape, begin);
    out.sum().backward();
    return std::pair(out.detach().cpu(), in.grad().cpu());
  };
  const auto [flash, flash_grad] = run(kGpu, at::kBFloat16);
  const auto [plain, plain_grad] = run(at::kCPU, at::kFloat);
  EXPECT_LE(RelativeError(flash, plain), 2e-2);
  EXPECT_LE(RelativeError(flash_grad, plain_grad), 3e-2);
}

TEST_F(CudaTest, AdamWTakesTheStepOfTheCpu) {
  const at::Tensor start = at::randn({1000}, at::kFloat);
  const at::Tensor gradient = at::randn({1000}, at::kFloat);
  const auto run = [&](const at::Device& device) {
    const at::Tensor values = start.to(device).clone();
    AdamW optimizer(values, {.weight_decay = 0.1});
    for (int i = 0; i < 3; ++i) optimizer.Step(gradient.to(device), 1e-2);
    return values.cpu();
  };
  EXPECT_LE(MaxDifference(run(kGpu), run(at::kCPU)), 1e-6);
}

// NCCL refuses two ranks on one device: what one GPU can show is that every collective runs.
TEST_F(CudaTest, CollectivesOfAGroupOfOneKeepItsTensors) {
  const auto plugin = OpenNcclPlugin(testing::Program("liblathe_nccl.so"));
  ASSERT_TRUE(plugin.ok()) << plugin.status();
  const auto group = (*plugin)->Join(MakeSoloCommunicator(), {});
  ASSERT_TRUE(group.ok()) << group.status();
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kLong}) {
    const at::Tensor values = at::arange(1, 1025, at::TensorOptions().dtype(type).device(kGpu));
    at::Tensor sum = values.clone();
    at::Tensor part = at::zeros_like(values);
    at::Tensor whole = at::zeros_like(values);
    ASSERT_TRUE((*group)->AllReduceSum(sum).ok());
    ASSERT_TRUE((*group)->Broadcast(sum, 0).ok());
    ASSERT_TRUE((*group)->ReduceScatterSum(values, part).ok());
    ASSERT_TRUE((*group)->AllGatherInto(part, whole).ok());
    EXPECT_TRUE(at::equal(sum, values) && at::equal(part, values) && at::equal(whole, values));
  }
  const auto half = (*group)->Split(0);
  ASSERT_TRUE(half.ok()) << half.status();
  EXPECT_EQ((*half)->size(), 1);
}

TEST_F(CudaTest, StagedNumbersArrive) {
  EXPECT_TRUE(at::equal(Stage({3, -1, 7}, kGpu).cpu(), at::tensor({3, -1, 7}, at::kInt)));
}

}  // namespace
}  // namespace lathe
