// What a GPU computes, beside what the CPU does. Skipped where there is none: docs/gpu.md.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <utility>

#include "tests/testing/subprocess.h"
#include "tests/worker/engine/model/model_fixture.h"
#include "worker/engine/dist/communicator.h"
#include "worker/engine/dist/nccl_plugin.h"
#include "worker/engine/ops/attention.h"
#include "worker/engine/ops/device_kernels.h"
#include "worker/engine/ops/elementwise.h"
#include "worker/engine/ops/lora_linear.h"
#include "worker/engine/ops/nf4_matrix.h"
#include "worker/engine/ops/staging.h"
#include "worker/engine/ops/token_loss.h"
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
    const auto kernels = (*plugin)->Kernels(0);
    ASSERT_TRUE(kernels.ok()) << kernels.status();
    UseDeviceKernels(*kernels);
  }
};

at::Tensor Random(at::IntArrayRef shape) {
  return at::rand(shape, at::kFloat).mul_(2).sub_(1).to(at::kBFloat16);
}

// An operation of one tensor; the second argument gives type and device of what it needs beside.
using Op = std::function<at::Tensor(const at::Tensor&, const at::TensorOptions&)>;

// On the GPU in 16 bits by its own kernels, against the CPU in 64: results and gradients.
void ExpectKernels(const Op& op, const at::Tensor& x) {
  const auto run = [&](const at::Tensor& leaf, const at::TensorOptions& beside) {
    const at::Tensor in = leaf.set_requires_grad(true);
    const at::Tensor out = op(in, beside);
    const at::Tensor weights = at::cos(at::arange(out.numel(), at::kDouble)).to(at::kBFloat16);
    (out * weights.view(out.sizes()).to(out.options())).sum().backward();
    return std::pair(out.detach().cpu(), in.grad().cpu());
  };
  const at::Tensor there = x.to(kGpu);
  ASSERT_NE(DeviceKernelsFor(there), nullptr);
  const auto [got, got_gradient] = run(there, at::TensorOptions(kGpu).dtype(at::kFloat));
  const auto [expected, gradient] = run(x.to(at::kDouble), at::TensorOptions().dtype(at::kDouble));
  EXPECT_LE(RelativeError(got, expected), 4e-3);
  EXPECT_LE(RelativeError(got_gradient, gradient), 6e-3);
}

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
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor host = at::empty({37, 136}, type);
    const at::Tensor expected = DropoutMask(host, 0.3, 7, 2);
    EXPECT_TRUE(at::equal(DropoutMask(host.to(kGpu), 0.3, 7, 2).cpu(), expected));
  }
}

TEST_F(CudaTest, FourBitCodesStandForTheSameNumbers) {
  const Nf4Matrix odd = QuantizeNf4(at::randn({96, 80}, at::kFloat));
  EXPECT_LE(
      MaxDifference(Dequantize(ToDevice(odd, kGpu), at::kFloat).cpu(), Dequantize(odd, at::kFloat)),
      1e-7);
  const Nf4Matrix whole = QuantizeNf4(at::randn({300, 192}, at::kFloat));
  EXPECT_TRUE(at::equal(Dequantize(ToDevice(whole, kGpu), at::kBFloat16).cpu(),
                        Dequantize(whole, at::kBFloat16)));
}

TEST_F(CudaTest, NormsAreThoseOfTheCpu) {
  for (const int64_t width : {8, 96, 576, 3584, 10240}) {
    const at::Tensor weight = at::rand({width}, at::kDouble).add_(0.5);
    ExpectKernels(
        [&](const at::Tensor& x, const at::TensorOptions& beside) {
          return RmsNorm(x, weight.to(beside), 1e-5);
        },
        Random({37, width}));
  }
}

// Of three heads of five: the others pass.
TEST_F(CudaTest, NormsOfHeadsAreThoseOfTheCpu) {
  const at::Tensor weight = at::rand({3, 128}, at::kDouble).add_(0.5);
  ExpectKernels(
      [&](const at::Tensor& x, const at::TensorOptions& beside) {
        return NormHeads(x, weight.to(beside), 1e-5);
      },
      Random({37, 5 * 128}));
}

TEST_F(CudaTest, GatesAreThoseOfTheCpu) {
  for (const int64_t width : {8, 1536}) {
    ExpectKernels([](const at::Tensor& x, const at::TensorOptions&) { return SwiGlu(x); },
                  Random({37, 2 * width}).mul_(8));
  }
}

TEST_F(CudaTest, HeadsTurnAsOnTheCpu) {
  const at::Tensor positions = at::arange(37, at::kLong);
  for (const bool interleaved : {false, true}) {
    for (const int64_t rotated : {64, 24}) {  // The rest of a head passes.
      const at::Tensor x = Random({37, 5, 64});
      const RopeTable wide =
          MakeRopeTable(positions, at::rand({rotated / 2}, at::kDouble), interleaved);
      const RopeTable narrow = {wide.cos.to(kGpu, at::kBFloat16), wide.sin.to(kGpu, at::kBFloat16),
                                interleaved};
      const RopeTable exact = {narrow.cos.cpu().to(at::kDouble), narrow.sin.cpu().to(at::kDouble),
                               interleaved};
      at::Tensor got = x.to(kGpu);
      ASSERT_NE(DeviceKernelsFor(got), nullptr);
      const at::Tensor turned = RotateHeads(got, narrow);
      EXPECT_LE(RelativeError(turned.cpu(), RotateHeads(x.to(at::kDouble), exact)), 4e-3);
      RotateInto(turned, narrow, /*inverse=*/true, got);
      EXPECT_LE(RelativeError(got.cpu(), x), 1e-2);
    }
  }
}

// Bias, update and frozen product, with spare columns and without; two layers, one tuned.
TEST_F(CudaTest, TunedLayersAreThoseOfTheCpu) {
  const at::Tensor weight = Random({96, 64});
  const at::Tensor bias = at::rand({96}, at::kFloat);
  const at::Tensor a = at::rand({4, 64}, at::kFloat).sub_(0.5);
  const at::Tensor b = at::rand({64, 4}, at::kFloat).sub_(0.5);
  for (const int64_t spare : {0, 8}) {
    ExpectKernels(
        [&](const at::Tensor& x, const at::TensorOptions& beside) {
          const at::Tensor wide = at::zeros({96, 64 + spare}, x.options().requires_grad(false));
          at::Tensor own = wide.narrow(1, 0, 64);
          own.copy_(weight);
          const LinearGroup group = {.weight = own,
                                     .out_features = {64, 32},
                                     .bias = bias.to(beside),
                                     .spare_columns = spare};
          const LoraUpdate update = {.pairs = {{a.to(beside), b.to(beside)}, {}}, .scale = 2};
          return LoraLinear(x, group, &update);
        },
        Random({37, 64}));
  }
}

TEST_F(CudaTest, LossAndGradientAreThoseOfTheCpu) {
  const at::Tensor weight = Random({1000, 64});
  const at::Tensor labels = at::randint(0, 1000, {300}, at::kLong);
  ExpectKernels(
      [&](const at::Tensor& x, const at::TensorOptions& beside) {
        const bool there = beside.device().is_cuda();
        return TokenLossSum(x, weight.to(beside.device(), there ? at::kBFloat16 : at::kDouble),
                            labels.to(beside.device()), /*chunk=*/128);
      },
      Random({300, 64}));
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
