// The parity gate with the real program: a training whose export is damaged must fail.

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>

#include "absl/strings/str_replace.h"
#include "common/base/file.h"
#include "tests/testing/fake_observer.h"
#include "tests/testing/shards.h"
#include "tests/testing/subprocess.h"
#include "worker/formats/safetensors.h"
#include "worker/trainer/train_task.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ParityTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto folder = TempFolder::Make("parity-e2e");
    ASSERT_TRUE(folder.ok()) << folder.status();
    folder_.emplace(*std::move(folder));
    fs::copy("tests/data/tiny-llama", path("model"));
    ASSERT_TRUE(MakeFolder(path("shards")).ok());
    std::vector<testing::OwnedRow> rows;
    for (uint64_t i = 0; i < 12; ++i) rows.push_back(testing::RandomRow(20 + i, 5 + i, i));
    testing::WriteShard(rows, path("shards") / "train.shard");
    testing::WriteShard({}, path("shards") / "validation.shard");
  }

  fs::path path(const std::string& name) const { return folder_->path() / name; }

  // Trains for a few steps; `damage` comes between the export and its verification.
  absl::StatusOr<TrainResult> Train(const std::function<void()>& damage) {
    JobSpec spec;
    spec.model = "tiny";
    spec.dataset = "rows";
    spec.learning_rate = 0.01;
    spec.lora.rank = 4;
    spec.method = method_;
    spec.base_dtype = base_dtype_;
    TrainTask task{.model_dir = path("model"),
                   .shard_dir = path("shards"),
                   .output_dir = path("out"),
                   .spec = Resolve(spec, "run"),
                   .threads = 1,
                   .join = [] { return MakeSoloCommunicator(); }};
    task.answer_afresh = [&](const AnswerRequest& request) {
      damage();
      return AnswerAfresh(request, testing::Program("lathe-trainer"));
    };
    return RunTrainTask(task, observer_, {});
  }

  void ExpectRefused(const absl::StatusOr<TrainResult>& result, const std::string& why) const {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << result.status();
    EXPECT_THAT(result.status().message(), HasSubstr(why));
    EXPECT_FALSE(fs::exists(path("out")));
  }

  std::string method_ = "sft";
  std::string base_dtype_ = "f32";
  std::optional<TempFolder> folder_;
  testing::FakeObserver observer_;
};

// Turns the sign of every value of the last tensor of a safetensors file.
void NegateLastTensor(const fs::path& file) {
  std::vector<TensorView> views;
  std::string negated;
  {
    const auto opened = SafetensorsFile::Open(file);
    ASSERT_TRUE(opened.ok()) << opened.status();
    views = opened->tensors();
    negated = std::string(views.back().bytes);
    for (size_t i = 3; i < negated.size(); i += 4)
      negated[i] = static_cast<char>(negated[i] ^ -128);
    views.back().bytes = negated;
    ASSERT_TRUE(WriteSafetensors(file, views).ok());
  }
}

TEST_F(ParityTest, AGoodExportAnswersAsTheTrainedModel) {
  const auto result = Train([] {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->parity.max_logit_difference, 0);
  EXPECT_EQ(result->parity.greedy_agreement, 1);
  EXPECT_EQ(result->parity.positions, 4 * kCanaryPositions);
  EXPECT_EQ(observer_.phases["verify"], 1);
  EXPECT_TRUE(fs::exists(path("out") / "adapter_config.json"));
}

TEST_F(ParityTest, AnAdapterOverABaseInFourBitsIsLoadedOverOne) {
  method_ = "qlora";
  const auto result = Train([] {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->parity.max_logit_difference, 0);
}

TEST_F(ParityTest, AnAdapterOverABaseInBf16IsLoadedOverOne) {
  base_dtype_ = "bf16";
  const auto result = Train([] {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->parity.max_logit_difference, 0);
}

TEST_F(ParityTest, AFlippedTensorFailsTheJob) {
  ExpectRefused(Train([&] { NegateLastTensor(path("out") / "adapter_model.safetensors"); }),
                "logit difference");
}

TEST_F(ParityTest, AScaledAlphaFailsTheJob) {
  ExpectRefused(Train([&] {
                  const fs::path file = path("out") / "adapter_config.json";
                  const auto text = ReadFile(file);
                  ASSERT_TRUE(text.ok()) << text.status();
                  const std::string changed =
                      absl::StrReplaceAll(*text, {{"\"lora_alpha\": 16", "\"lora_alpha\": 32"}});
                  ASSERT_NE(changed, *text);
                  std::ofstream(file) << changed;
                }),
                "logit difference");
}

TEST_F(ParityTest, ASwappedTemplateFailsTheJob) {
  ExpectRefused(Train([&] {
                  std::ofstream(path("model") / "chat_template.jinja", std::ios::app) << "{# #}";
                }),
                "the process that loads the export exited with 70");
}

TEST_F(ParityTest, AnExportThatCannotBeLoadedFailsTheJob) {
  ExpectRefused(Train([&] { fs::resize_file(path("out") / "adapter_model.safetensors", 100); }),
                "the process that loads the export exited with");
}

}  // namespace
}  // namespace lathe
