#include "worker/engine/model/rope_frequencies.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/engine/model/model_fixture.h"

namespace lathe {
namespace {

ModelConfig Config(int64_t head_dim, const RopeScaling& scaling) {
  ModelConfig config = *LoadModelConfig(DataFolder() / "tiny-llama");
  config.head_dim = head_dim;
  config.rope_theta = 500000;
  config.rope_scaling = scaling;
  return config;
}

// To a few units in the last place: the power function is another on other processors.
void ExpectGolden(const ModelConfig& config, const std::string& name) {
  const at::Tensor golden = ReadTensor(DataFolder() / "goldens" / "rope.safetensors", name);
  const at::Tensor ours = RopeFrequencies(config, at::kFloat);
  ASSERT_EQ(ours.sizes(), golden.sizes());
  EXPECT_LE(((ours - golden) / golden).abs().max().item<float>(), 5e-7) << name;
  const at::Tensor exact = RopeFrequencies(config, at::kDouble);
  EXPECT_LE(((exact - golden) / golden).abs().max().item<double>(), 5e-7) << name;
}

TEST(RopeFrequenciesTest, AreThoseOfTransformers) {
  ExpectGolden(Config(128, {.type = RopeType::kLlama3, .factor = 8}), "llama31");
  ExpectGolden(Config(64, {.type = RopeType::kLlama3, .factor = 32}), "llama32");
  ExpectGolden(Config(64, {.type = RopeType::kLinear, .factor = 2.5}), "linear");
}

}  // namespace
}  // namespace lathe
