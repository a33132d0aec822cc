#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/base/file.h"
#include "tests/testing/fake_observer.h"
#include "tests/testing/shards.h"
#include "worker/engine/train/trainer.h"
#include "worker/formats/import.h"

// tests/oracle/README.md, training.json and training-full.json: steps of transformers, PEFT and
// torch.optim.AdamW.

namespace lathe {
namespace {

JobSpec SpecFrom(const nlohmann::json& options) {
  JobSpec spec;
  spec.epochs = 1;
  spec.batch_size = options.at("rows_per_step");
  spec.micro_batch_tokens = 64;
  spec.learning_rate = options.at("learning_rate");
  spec.warmup_ratio = options.at("warmup_ratio");
  spec.max_grad_norm = options.at("max_grad_norm");
  spec.weight_decay = options.at("weight_decay");
  spec.beta1 = options.at("beta1");
  spec.beta2 = options.at("beta2");
  spec.eps = options.at("eps");
  return spec;
}

std::vector<testing::OwnedRow> RowsInGoldenOrder(const nlohmann::json& golden) {
  const std::vector<testing::OwnedRow> rows = testing::RowsFromJson(golden.at("rows"));
  std::vector<testing::OwnedRow> visited;
  for (const auto& step : golden.at("order")) {
    for (const size_t index : step) visited.push_back(rows.at(index));
  }
  return visited;
}

// Where a curve is, and what it starts from. `adapter` empty: every parameter is trained.
struct Start {
  std::filesystem::path golden;
  std::filesystem::path model;
  std::filesystem::path adapter;
};
const Start kTinyAdapter = {"tests/data/goldens/training.json", "tests/data/tiny-llama",
                            "tests/data/tiny-adapter-init"};
const Start kTinyFull = {"tests/data/goldens/training-full.json", "tests/data/tiny-llama", ""};

void ExpectGoldenCurve(const Start& start, const std::string& reduction, bool fp64,
                       double loss_tolerance, double norm_tolerance) {
  SCOPED_TRACE(reduction);
  at::set_num_threads(1);
  const nlohmann::json golden = testing::ReadJson(start.golden);
  JobSpec spec = SpecFrom(golden.at("options"));
  spec.reduction = reduction;
  const Shard rows =
      testing::MakeShardVisitedInOrder(RowsInGoldenOrder(golden), static_cast<uint64_t>(spec.seed));
  const std::string adapter = start.adapter.empty() ? "" : "a";
  auto model = LanguageModel::Load(start.model, {.fp64 = fp64, .trainable = adapter.empty()});
  ASSERT_TRUE(model.ok()) << model.status();
  const absl::Status loaded =
      adapter.empty() ? absl::OkStatus() : (*model)->LoadAdapter(adapter, start.adapter);
  ASSERT_TRUE(loaded.ok()) << loaded;
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  testing::FakeObserver observer;
  const SystemClock clock;
  Trainer trainer({**model, adapter, rows, *solo, observer, clock}, spec);
  ASSERT_EQ(trainer.num_steps(), golden.at("options").at("num_steps"));
  const nlohmann::json& expected = golden.at(fp64 ? "f64" : "f32");
  for (size_t step = 0; step < expected.at("loss").size(); ++step) {
    const auto stats = trainer.Step();
    ASSERT_TRUE(stats.ok()) << stats.status();
    EXPECT_NEAR(stats->loss, expected["loss"][step], loss_tolerance) << "step " << step;
    EXPECT_NEAR(stats->grad_norm, expected["grad_norm"][step],
                norm_tolerance * expected["grad_norm"][step].get<double>())
        << "step " << step;
    EXPECT_NEAR(stats->learning_rate, expected["learning_rate"][step], 1e-12) << "step " << step;
  }
}

// Both reductions, against the same numbers.
void ExpectGoldenCurve(const Start& start, bool fp64, double loss_tolerance,
                       double norm_tolerance) {
  for (const char* reduction : {"fast", "exact"}) {
    ExpectGoldenCurve(start, reduction, fp64, loss_tolerance, norm_tolerance);
  }
}

TEST(TrainingGoldenTest, TenStepsFollowTransformersIn64Bits) {
  ExpectGoldenCurve(kTinyAdapter, true, 1e-9, 1e-7);
}

TEST(TrainingGoldenTest, TenStepsFollowTransformersIn32Bits) {
  ExpectGoldenCurve(kTinyAdapter, false, 1e-4, 1e-3);
}

TEST(TrainingGoldenTest, TwentyStepsOfAllParametersFollowTransformersIn64Bits) {
  ExpectGoldenCurve(kTinyFull, true, 1e-9, 1e-7);
}

TEST(TrainingGoldenTest, TwentyStepsOfAllParametersFollowTransformersIn32Bits) {
  ExpectGoldenCurve(kTinyFull, false, 1e-4, 1e-3);
}

// Imports a T5 of tests/data/families; the canonical folder.
std::filesystem::path ImportT5(const std::filesystem::path& family, const TempFolder& folder) {
  const std::filesystem::path source = folder.path() / "source";
  std::filesystem::create_directories(source);
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(family / name, source / name);
  }
  std::filesystem::copy_file("tests/data/sentencepiece/unigram.model", source / "spiece.model");
  std::ofstream(source / "tokenizer_config.json") << R"({"tokenizer_class": "T5Tokenizer"})";
  const auto imported = ImportModel(source, folder.path() / "model", nullptr);
  EXPECT_TRUE(imported.ok()) << imported.status();
  return folder.path() / "model";
}

TEST(TrainingGoldenTest, TwentyStepsOfAnEncoderDecoderFollowTransformers) {
  const std::filesystem::path family = "tests/data/families/flan-t5";
  const TempFolder folder = *TempFolder::Make("training_golden");
  const Start start = {family / "training.json", ImportT5(family, folder), family / "adapter-init"};
  ExpectGoldenCurve(start, /*fp64=*/true, 1e-9, 1e-7);
  ExpectGoldenCurve(start, /*fp64=*/false, 1e-4, 1e-3);
}

TEST(TrainingGoldenTest, TwentyStepsOfAllParametersOfAnEncoderDecoderFollowTransformers) {
  const std::filesystem::path family = "tests/data/families/t5";
  const TempFolder folder = *TempFolder::Make("training_golden");
  const Start start = {family / "training-full.json", ImportT5(family, folder), ""};
  ExpectGoldenCurve(start, /*fp64=*/true, 1e-9, 1e-7);
  ExpectGoldenCurve(start, /*fp64=*/false, 1e-4, 1e-3);
}

}  // namespace
}  // namespace lathe
