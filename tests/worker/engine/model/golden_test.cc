#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/engine/model/model_fixture.h"

// Ours against transformers and PEFT on the tiny Llama.

namespace lathe {
namespace {

std::filesystem::path Golden(const char* name) { return DataFolder() / "goldens" / name; }

std::vector<int32_t> GoldenIds(const char* file = "logits.safetensors") {
  const at::Tensor ids = ReadTensor(Golden(file), "ids");
  return {ids.data_ptr<int32_t>(), ids.data_ptr<int32_t>() + ids.numel()};
}

struct Precision {
  bool fp64;
  const char* suffix;
  double logits;    // Largest difference allowed.
  double loss;      // Relative.
  double gradient;  // Of a tensor's norm.
};

class GoldenTest : public testing::TestWithParam<Precision> {};

INSTANTIATE_TEST_SUITE_P(Precisions, GoldenTest,
                         testing::Values(Precision{false, "f32", 1e-5, 1e-6, 1e-3},
                                         Precision{true, "f64", 1e-12, 1e-12, 1e-9}),
                         [](const auto& test) { return std::string(test.param.suffix); });

TEST_P(GoldenTest, LogitsOfBaseAndAdapterAreThoseOfTransformers) {
  const auto model = LoadTiny(GetParam().fp64);
  const PackedBatch batch = Document(GoldenIds());
  const std::string suffix = std::string(".") + GetParam().suffix;
  for (const auto& [name, adapter] : {std::pair("base", ""), std::pair("adapter", "tuned")}) {
    const at::Tensor expected = ReadTensor(Golden("logits.safetensors"), name + suffix);
    EXPECT_LE(MaxDifference(model->Logits(batch, adapter), expected), GetParam().logits) << name;
  }
}

TEST_P(GoldenTest, LossSumAndCorrectTokensOfABatchAreThoseOfPeft) {
  const auto model = LoadTiny(GetParam().fp64);
  const auto golden = ReadJson(Golden("batch.json"));
  const PackedBatch batch = Pack(RowsOf(golden.at("rows")));
  const double expected = golden.at(std::string("loss_sum_") + GetParam().suffix);
  const EvalSums sums = model->Evaluate(batch, "tuned");
  EXPECT_NEAR(sums.loss, expected, GetParam().loss * expected);
  EXPECT_EQ(sums.tokens, golden.at("num_tokens").get<int64_t>());
  EXPECT_EQ(sums.correct, golden.at("num_correct").get<int64_t>());
  EXPECT_NEAR(model->LossSum(batch, "tuned", true, 0).item<double>(), expected,
              GetParam().loss * expected);
}

TEST_P(GoldenTest, GradientOfEveryAdapterTensorIsThatOfPeft) {
  const auto model = LoadTiny(GetParam().fp64);
  const auto golden = ReadJson(Golden("batch.json"));
  const auto ours = Differentiate(*model, {Pack(RowsOf(golden.at("rows")))}, "tuned");
  const auto tensors = model->AdapterTensors("tuned");
  ASSERT_EQ(tensors.size(), 2U * 7U * 2U);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor expected = ReadTensor(Golden("gradients.safetensors"),
                                           std::string(GetParam().suffix) + "." + tensors[i].name);
    EXPECT_LE(RelativeError(ours.gradients[i], expected), GetParam().gradient) << tensors[i].name;
  }
}

TEST_P(GoldenTest, GradientOfEveryParameterIsThatOfTransformers) {
  const auto model = LoadTrainable(DataFolder() / "tiny-llama", GetParam().fp64);
  const PackedBatch batch = Pack(RowsOf(ReadJson(Golden("batch.json")).at("rows")));
  ExpectParameterGradients(Golden("full.safetensors"), *model, batch, GetParam().loss,
                           GetParam().gradient);
}

// DoRA with the rank-stabilised scale; the gradients are of the loss of every token but the first.
TEST_P(GoldenTest, LogitsAndGradientsOfDoraAreThoseOfPeft) {
  const auto model = LoadTiny(GetParam().fp64);
  ASSERT_TRUE(model->LoadAdapter("dora", DataFolder() / "tiny-adapter-dora").ok());
  const std::vector<int32_t> ids = GoldenIds("dora.safetensors");
  const std::string suffix = std::string(".") + GetParam().suffix;
  const at::Tensor logits = ReadTensor(Golden("dora.safetensors"), "logits" + suffix);
  EXPECT_LE(MaxDifference(model->Logits(Document(ids), "dora"), logits), GetParam().logits);
  std::vector<uint8_t> trained(ids.size(), 1);
  trained[0] = 0;
  const auto ours = Differentiate(*model, {Pack({{ids, trained}})}, "dora");
  const auto tensors = model->AdapterTensors("dora");
  ASSERT_EQ(tensors.size(), 2U * 7U * 3U);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor expected = ReadTensor(Golden("dora.safetensors"), "f64." + tensors[i].name);
    EXPECT_LE(RelativeError(ours.gradients[i], expected), GetParam().gradient) << tensors[i].name;
  }
}

std::vector<int32_t> Greedy(LanguageModel& model, const std::vector<int32_t>& prompt,
                            const std::string& adapter, int count) {
  const auto cache = model.NewCache();
  std::vector<int32_t> ids;
  at::Tensor logits = model.Extend(*cache, prompt, adapter);
  while (true) {
    ids.push_back(static_cast<int32_t>(logits.argmax().item<int64_t>()));
    if (static_cast<int>(ids.size()) == count) return ids;
    logits = model.Extend(*cache, {ids.back()}, adapter);
  }
}

TEST_P(GoldenTest, GreedyTokensAreThoseOfTransformers) {
  const auto model = LoadTiny(GetParam().fp64);
  const auto golden = ReadJson(Golden("greedy.json"));
  const int count = golden.at("max_new_tokens");
  for (size_t i = 0; i < golden.at("prompts").size(); ++i) {
    const std::vector<int32_t> prompt = golden.at("prompts")[i];
    EXPECT_EQ(Greedy(*model, prompt, "", count), golden.at("base")[i].get<std::vector<int32_t>>());
    EXPECT_EQ(Greedy(*model, prompt, "tuned", count),
              golden.at("adapter")[i].get<std::vector<int32_t>>());
  }
}

TEST_P(GoldenTest, CachedDecodingGivesTheLogitsOfAFullPass) {
  const auto model = LoadTiny(GetParam().fp64);
  const std::vector<int32_t> ids = GoldenIds();
  const at::Tensor full = model->Logits(Document(ids), "tuned");
  // Prompts and steps of several lengths, so that pieces begin in the middle too.
  for (const size_t piece : {size_t{1}, size_t{5}, ids.size()}) {
    const auto cache = model->NewCache();
    for (size_t begin = 0; begin < ids.size(); begin += piece) {
      const size_t end = std::min(begin + piece, ids.size());
      const at::Tensor last = model->Extend(
          *cache,
          {ids.begin() + static_cast<int64_t>(begin), ids.begin() + static_cast<int64_t>(end)},
          "tuned");
      EXPECT_LE(MaxDifference(last, full[static_cast<int64_t>(end) - 1]), GetParam().logits);
    }
  }
}

TEST(KvCacheTest, GrowsBeyondItsFirstCapacity) {
  const auto model = LoadTiny(/*fp64=*/true);
  std::vector<int32_t> ids;
  for (int i = 0; i < 300; ++i) ids.push_back((i * 37 + 5) % 384);
  const at::Tensor full = model->Logits(Document(ids), "tuned");
  const auto cache = model->NewCache();
  model->Extend(*cache, {ids.begin(), ids.begin() + 255}, "tuned");
  at::Tensor last;
  for (int i = 255; i < 300; ++i)
    last = model->Extend(*cache, {ids[static_cast<size_t>(i)]}, "tuned");
  EXPECT_LE(MaxDifference(last, full[299]), 1e-12);
}

}  // namespace
}  // namespace lathe
