#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <fstream>

#include "common/base/file.h"
#include "tests/worker/engine/model/model_fixture.h"
#include "worker/engine/generate/greedy.h"
#include "worker/engine/model/relative_bias.h"
#include "worker/engine/model/source_target.h"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/import.h"

// T5 and Flan-T5, imported from their own Hugging Face layout, against transformers and PEFT.

namespace lathe {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// The canonical folder of a tiny T5 of tests/data/families.
void ImportT5(const std::string& family, const fs::path& to) {
  const fs::path source = to.parent_path() / (family + ".source");
  fs::create_directories(source);
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::copy_file(DataFolder() / "families" / family / name, source / name);
  }
  fs::copy_file(DataFolder() / "sentencepiece" / "unigram.model", source / "spiece.model");
  std::ofstream(source / "tokenizer_config.json")
      << R"({"tokenizer_class": "T5Tokenizer", "eos_token": "</s>"})";
  const auto imported = ImportModel(source, to, nullptr);
  EXPECT_TRUE(imported.ok()) << imported.status();
}

struct Precision {
  bool fp64;
  const char* suffix;
  double logits;    // Largest difference allowed.
  double loss;      // Relative.
  double gradient;  // Of a tensor's norm.
  double packing;   // Relative, packed to alone.
};
constexpr Precision kF32 = {false, "f32", 1e-5, 1e-6, 1e-3, 1e-5};
constexpr Precision kF64 = {true, "f64", 1e-12, 1e-12, 1e-9, 1e-12};

// Longer than a block of the attention, source and target.
Row LengthyRow() {
  Row row;
  for (int i = 0; i < 600; ++i) {
    row.ids.push_back((i * 53 + 11) % 384);
    row.trained.push_back(i >= 310 && i % 5 != 0 ? 1 : 0);
  }
  return row;
}

// Counts how often autograd has added to a tensor's gradient.
class CallCounter final : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit CallCounter(int& count) : count_(count) {}
  void operator()(const at::Tensor& /*tensor*/) override { ++count_; }

 private:
  int& count_;
};

using Parameter = std::tuple<const char*, Precision>;

class T5Test : public testing::TestWithParam<Parameter> {
 protected:
  T5Test() : temp_(*TempFolder::Make("t5-test")) {
    ImportT5(std::get<0>(GetParam()), temp_.path() / "model");
    model_ = Load({.fp64 = precision().fp64});
  }

  static Precision precision() { return std::get<1>(GetParam()); }
  static fs::path Source() { return DataFolder() / "families" / std::get<0>(GetParam()); }
  static at::Tensor Golden(const std::string& name) {
    return ReadTensor(Source() / "golden.safetensors", name);
  }
  static std::vector<int32_t> GoldenIds(const std::string& name) {
    const at::Tensor ids = Golden(name);
    return {ids.data_ptr<int32_t>(), ids.data_ptr<int32_t>() + ids.numel()};
  }
  static Row GoldenRow() {
    const std::vector<int32_t> trained = GoldenIds("trained");
    return {GoldenIds("ids"), {trained.begin(), trained.end()}};
  }

  // The imported model with the source's adapter as "tuned".
  std::unique_ptr<LanguageModel> Load(const ModelOptions& options) const {
    auto model = LanguageModel::Load(temp_.path() / "model", options);
    EXPECT_TRUE(model.ok()) << model.status();
    const absl::Status status = (*model)->LoadAdapter("tuned", Source() / "adapter");
    EXPECT_TRUE(status.ok()) << status;
    return *std::move(model);
  }

  std::unique_ptr<LanguageModel> LoadTrainable(bool checkpointing) const {
    auto model = LanguageModel::Load(
        temp_.path() / "model",
        {.fp64 = precision().fp64, .activation_checkpointing = checkpointing, .trainable = true});
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }

  TempFolder temp_;
  std::unique_ptr<LanguageModel> model_;
};

INSTANTIATE_TEST_SUITE_P(Families, T5Test,
                         testing::Combine(testing::Values("t5", "flan-t5"),
                                          testing::Values(kF32, kF64)),
                         [](const auto& test) {
                           std::string name = std::get<0>(test.param);
                           std::erase(name, '-');
                           return name + "_" + std::get<1>(test.param).suffix;
                         });

TEST_P(T5Test, LogitsOfTheTargetAreThoseOfTransformers) {
  const PackedBatch batch = Pack({GoldenRow()});
  const at::Tensor positions = Golden("positions").to(at::kLong);
  for (const auto& [name, adapter] : {std::pair("base", ""), std::pair("adapter", "tuned")}) {
    if (precision().fp64 && *adapter == '\0') continue;  // The golden has no such tensor.
    const at::Tensor ours = model_->Logits(batch, adapter).index_select(0, positions);
    const at::Tensor theirs = Golden(std::string(name) + "." + precision().suffix);
    EXPECT_LE(MaxDifference(ours, theirs), precision().logits) << name;
  }
}

TEST_P(T5Test, LossAndGradientOfEveryAdapterTensorAreThoseOfPeft) {
  const auto ours = Differentiate(*model_, {Pack({GoldenRow()})}, "tuned");
  const double loss = Golden("loss_sum").item<double>();
  EXPECT_NEAR(ours.loss, loss, precision().loss * loss);
  EXPECT_NEAR(model_->Evaluate(Pack({GoldenRow()}), "tuned").loss, loss, precision().loss * loss);
  const auto tensors = model_->AdapterTensors("tuned");
  size_t num_linears = 0;
  for (const LayerLinears& layer : LinearsOf(model_->config())) num_linears += layer.linears.size();
  ASSERT_EQ(tensors.size(), 2 * num_linears);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor theirs = Golden("gradient." + tensors[i].name);
    EXPECT_LE(RelativeError(ours.gradients[i], theirs), precision().gradient) << tensors[i].name;
  }
}

TEST_P(T5Test, GreedyTokensAreThoseOfTransformersGenerate) {
  const Row row = GoldenRow();
  const auto first = std::find(row.trained.begin(), row.trained.end(), 1) - row.trained.begin();
  const std::vector<int32_t> source(row.ids.begin(), row.ids.begin() + first);
  for (const auto& [name, adapter] : {std::pair("base", ""), std::pair("adapter", "tuned")}) {
    const std::vector<int32_t> theirs = GoldenIds(std::string("greedy.") + name);
    const auto count = static_cast<int64_t>(theirs.size());
    const std::vector<int32_t> shorter(source.begin(), source.begin() + 1);
    const auto together =
        GreedyIds(*model_, {{shorter, 3}, {source, count}}, /*end_ids=*/{}, adapter);
    EXPECT_EQ(together[1], theirs) << name;
    EXPECT_EQ(together[0], GreedyIds(*model_, {{shorter, 3}}, {}, adapter)[0]) << name;
  }
}

TEST_P(T5Test, CachedDecodingGivesTheLogitsOfAFullPass) {
  const Row row = GoldenRow();
  const at::Tensor full = model_->Logits(Pack({row}), "tuned");
  const auto first = std::find(row.trained.begin(), row.trained.end(), 1) - row.trained.begin();
  for (const size_t piece : {size_t{1}, size_t{4}}) {
    const auto cache = model_->NewCache();
    at::Tensor last = model_->Extend(*cache, {row.ids.begin(), row.ids.begin() + first}, "tuned");
    EXPECT_LE(MaxDifference(last, full[0]), precision().logits);
    std::vector<int32_t> target(row.ids.begin() + first, row.ids.end() - 1);
    for (size_t begin = 0; begin < target.size(); begin += piece) {
      const size_t end = std::min(begin + piece, target.size());
      last = model_->Extend(*cache,
                            {target.begin() + static_cast<int64_t>(begin),
                             target.begin() + static_cast<int64_t>(end)},
                            "tuned");
      EXPECT_LE(MaxDifference(last, full[static_cast<int64_t>(end)]), precision().logits);
    }
    EXPECT_EQ(cache->length(), static_cast<int64_t>(target.size()) + 1);
  }
}

TEST_P(T5Test, PackedRowsHaveLossAndGradientsOfRowsAlone) {
  const std::vector<Row> rows = {GoldenRow(), LengthyRow(), {{1, 9, 1}, {0, 1, 1}}};
  std::vector<PackedBatch> alone;
  for (const Row& row : rows) alone.push_back(Pack({row}));
  const auto packed = Differentiate(*model_, {Pack(rows)}, "tuned");
  const auto expected = Differentiate(*model_, alone, "tuned");
  EXPECT_NEAR(packed.loss, expected.loss, precision().packing * expected.loss);
  for (size_t i = 0; i < packed.gradients.size(); ++i) {
    EXPECT_LE(RelativeError(packed.gradients[i], expected.gradients[i]), precision().packing)
        << "tensor " << i;
  }
}

TEST_P(T5Test, TokensOfAnotherDocumentChangeNothing) {
  std::vector<Row> rows = {GoldenRow(), GoldenRow()};
  const at::Tensor before = model_->Logits(Pack(rows), "tuned");
  for (int32_t& id : rows[0].ids) id = (id + 7) % 384;
  const at::Tensor after = model_->Logits(Pack(rows), "tuned");
  const int64_t begin = before.size(0) / 2;
  EXPECT_TRUE(at::equal(before.slice(0, begin), after.slice(0, begin)));
  EXPECT_FALSE(at::equal(before, after));
}

TEST_P(T5Test, AnAdapterStartsAsTheBaseOverEveryLinearLayer) {
  for (const bool dora : {false, true}) {
    const std::string name = dora ? "dora" : "lora";
    ASSERT_TRUE(model_->AddAdapter(name, {.rank = 2, .dora = dora}, 1).ok());
    const PackedBatch batch = Pack({GoldenRow()});
    EXPECT_LE(MaxDifference(model_->Logits(batch, name), model_->Logits(batch, "")),
              precision().logits);
    const size_t num_parts = dora ? 3 : 2;
    EXPECT_EQ(model_->AdapterTensors(name).size() / num_parts,
              model_->AdapterTensors("tuned").size() / 2);
  }
  EXPECT_EQ(model_->GetAdapterConfig("lora").task_type, "SEQ_2_SEQ_LM");
}

TEST_P(T5Test, InFourBitsTheLastLayerOfAFeedForwardStaysAsItIs) {
  const auto quantized = Load({.fp64 = precision().fp64, .storage = BaseStorage::kNf4});
  const PackedBatch batch = Pack({GoldenRow()});
  const double difference = MaxDifference(quantized->Logits(batch, ""), model_->Logits(batch, ""));
  EXPECT_GT(difference, 1e-3);
  const auto result = Differentiate(*quantized, {batch}, "tuned");
  for (const at::Tensor& gradient : result.gradients) {
    EXPECT_TRUE(at::isfinite(gradient).all().item<bool>());
  }
}

// The gradient of the encoder's states comes from every layer of the decoder.
TEST_P(T5Test, ActivationCheckpointingGivesTheSameLossAndGradients) {
  const auto checkpointed = Load({.fp64 = precision().fp64, .activation_checkpointing = true});
  const std::vector<PackedBatch> batches = {Pack({GoldenRow(), GoldenRow()}), Pack({GoldenRow()})};
  const auto expected = Differentiate(*model_, batches, "tuned");
  const auto ours = Differentiate(*checkpointed, batches, "tuned");
  EXPECT_EQ(ours.loss, expected.loss);
  for (size_t i = 0; i < ours.gradients.size(); ++i) {
    EXPECT_LE(RelativeError(ours.gradients[i], expected.gradients[i]), precision().packing)
        << "tensor " << i;
  }
}

TEST_P(T5Test, SixteenBitStorageComputesWithTheRoundedWeights) {
  const auto rounded = Load({.fp64 = precision().fp64, .storage = BaseStorage::kBf16});
  const PackedBatch batch = Pack({GoldenRow()});
  const double difference = MaxDifference(rounded->Logits(batch, ""), model_->Logits(batch, ""));
  EXPECT_LE(difference, 0.2);  // The files are F16, and BF16: nothing is lost then.
  EXPECT_EQ(difference > precision().logits, std::get<0>(GetParam()) == std::string("t5"));
}

TEST_P(T5Test, AnAdapterForDecodersAndUnknownModulesAreRefusedByName) {
  const fs::path dir = temp_.path() / "other";
  fs::copy(Source() / "adapter", dir);
  auto config = ReadJson(dir / "adapter_config.json");
  config["task_type"] = "CAUSAL_LM";
  std::ofstream(dir / "adapter_config.json") << config.dump();
  EXPECT_THAT(std::string(model_->LoadAdapter("other", dir).message()),
              HasSubstr("task_type is CAUSAL_LM; one for a T5ForConditionalGeneration has "
                        "SEQ_2_SEQ_LM"));
  config["task_type"] = nullptr;
  std::ofstream(dir / "adapter_config.json") << config.dump();
  EXPECT_TRUE(model_->LoadAdapter("other", dir).ok());
  EXPECT_THAT(std::string(model_->AddAdapter("x", {.target_modules = {"q_proj"}}, 1).message()),
              testing::AllOf(HasSubstr("'q_proj'; allowed are all-linear, q, k, v, o, wi"),
                             HasSubstr("such as decoder.block."), HasSubstr(".DenseReluDense.wo")));
  ASSERT_TRUE(model_->AddAdapter("cross", {.target_modules = {"EncDecAttention.q"}}, 1).ok());
  EXPECT_THAT(model_->AdapterTensors("cross")[0].name,
              HasSubstr("base_model.model.decoder.block.0.layer.1.EncDecAttention.q.lora_A"));
}

TEST_P(T5Test, InFullTuningTheGradientOfEveryParameterIsThatOfTransformers) {
  for (const bool checkpointing : {false, true}) {
    const auto model = LoadTrainable(checkpointing);
    ExpectParameterGradients(Source() / "full.safetensors", *model, Pack({GoldenRow()}),
                             precision().loss, precision().gradient);
  }
}

TEST_P(T5Test, InFullTuningPackedRowsHaveTheGradientsOfRowsAlone) {
  const std::vector<Row> rows = {GoldenRow(), LengthyRow(), {{1, 9, 1}, {0, 1, 1}}};
  std::vector<PackedBatch> alone;
  for (const Row& row : rows) alone.push_back(Pack({row}));
  const auto model = LoadTrainable(/*checkpointing=*/false);
  const auto packed = Differentiate(*model, {Pack(rows)}, "");
  const auto expected = Differentiate(*model, alone, "");
  for (size_t i = 0; i < packed.gradients.size(); ++i) {
    EXPECT_LE(RelativeError(packed.gradients[i], expected.gradients[i]), precision().packing)
        << "tensor " << i;
  }
}

TEST_P(T5Test, InFullTuningCheckpointedGradientsHaveTheSameBits) {
  const std::vector<PackedBatch> batches = {Pack({GoldenRow(), LengthyRow()}), Pack({GoldenRow()})};
  const auto plain = LoadTrainable(/*checkpointing=*/false);
  const auto checkpointed = LoadTrainable(/*checkpointing=*/true);
  const auto expected = Differentiate(*plain, batches, "", /*training=*/true);
  const auto gradients = Differentiate(*checkpointed, batches, "", /*training=*/true).gradients;
  for (size_t i = 0; i < gradients.size(); ++i) {
    EXPECT_TRUE(at::equal(gradients[i], expected.gradients[i])) << "tensor " << i;
  }
}

TEST_P(T5Test, InFullTuningTheGradientOfATensorIsCompleteWhenItsHookIsCalled) {
  const auto model = LoadTrainable(/*checkpointing=*/true);
  std::vector<int> calls(model->ParameterTensors().size(), 0);
  for (size_t i = 0; i < calls.size(); ++i) {
    torch::autograd::impl::set_post_acc_grad_hooks(model->ParameterTensors()[i].tensor,
                                                   std::make_unique<CallCounter>(calls[i]));
  }
  model->LossSum(Pack({GoldenRow()}), "", /*training=*/true, 0).backward();
  EXPECT_THAT(calls, testing::Each(1));
}

TEST(RelativeBiasTest, BucketsAreThoseOfTransformers) {
  const auto golden = ReadJson(DataFolder() / "goldens" / "relative_buckets.json");
  const int64_t last = -golden.at("first_distance").get<int64_t>();
  for (const auto& expected : golden.at("cases")) {
    const EncoderDecoder options = {.num_buckets = expected.at("num_buckets"),
                                    .max_distance = expected.at("max_distance")};
    for (const auto& [name, bidirectional] :
         {std::pair("encoder", true), std::pair("decoder", false)}) {
      const at::Tensor ours = RelativeBuckets(last, bidirectional, options);
      const std::vector<int64_t> buckets(ours.data_ptr<int64_t>(),
                                         ours.data_ptr<int64_t>() + ours.numel());
      EXPECT_EQ(buckets, expected.at(name).get<std::vector<int64_t>>())
          << name << " " << options.num_buckets;
    }
  }
}

TEST(SourceTargetTest, TheTargetBeginsWithTheFirstLabelAndIsShiftedRight) {
  const SourceTarget split =
      SplitBatch(Pack({{{5, 6, 1, 7, 8, 1}, {0, 0, 0, 1, 0, 1}}, {{4, 2}, {0, 1}}}), 9);
  EXPECT_THAT(split.source_ids, ElementsAre(5, 6, 1, 4));
  EXPECT_THAT(split.source_begin, ElementsAre(0, 3, 4));
  EXPECT_THAT(split.decoder_ids, ElementsAre(9, 7, 8, 9));
  EXPECT_THAT(split.target_begin, ElementsAre(0, 3, 4));
  EXPECT_THAT(split.label_positions, ElementsAre(0, 2, 3));
}

TEST(SourceTargetTest, ADocumentWithoutLabelIsASourceAlone) {
  const SourceTarget split = SplitBatch(Pack({{{5, 6}, {0, 0}}, {{4, 2}, {0, 1}}}), 9);
  EXPECT_THAT(split.source_begin, ElementsAre(0, 2, 3));
  EXPECT_THAT(split.decoder_ids, ElementsAre(9, 9));
  EXPECT_THAT(split.label_positions, ElementsAre(1));
}

}  // namespace
}  // namespace lathe
