#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/testing/fake_observer.h"
#include "tests/testing/shards.h"
#include "worker/engine/train/trainer.h"

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

// `adapter` empty: every parameter is trained.
void ExpectGoldenCurve(const std::string& file, const std::string& adapter, bool fp64,
                       double loss_tolerance, double norm_tolerance) {
  at::set_num_threads(1);
  const nlohmann::json golden = testing::ReadJson("tests/data/goldens/" + file);
  const JobSpec spec = SpecFrom(golden.at("options"));
  const Shard rows =
      testing::MakeShardVisitedInOrder(RowsInGoldenOrder(golden), static_cast<uint64_t>(spec.seed));
  auto model =
      CausalLm::Load("tests/data/tiny-llama", {.fp64 = fp64, .trainable = adapter.empty()});
  ASSERT_TRUE(model.ok()) << model.status();
  const absl::Status loaded =
      adapter.empty() ? absl::OkStatus() : (*model)->LoadAdapter(adapter, "tests/data/" + adapter);
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

TEST(TrainingGoldenTest, TenStepsFollowTransformersIn64Bits) {
  ExpectGoldenCurve("training.json", "tiny-adapter-init", true, 1e-9, 1e-7);
}

TEST(TrainingGoldenTest, TenStepsFollowTransformersIn32Bits) {
  ExpectGoldenCurve("training.json", "tiny-adapter-init", false, 1e-4, 1e-3);
}

TEST(TrainingGoldenTest, TwentyStepsOfAllParametersFollowTransformersIn64Bits) {
  ExpectGoldenCurve("training-full.json", "", true, 1e-9, 1e-7);
}

TEST(TrainingGoldenTest, TwentyStepsOfAllParametersFollowTransformersIn32Bits) {
  ExpectGoldenCurve("training-full.json", "", false, 1e-4, 1e-3);
}

}  // namespace
}  // namespace lathe
