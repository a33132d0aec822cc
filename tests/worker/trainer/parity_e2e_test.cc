// The parity gate with the real program: a training whose export is damaged must fail.

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <set>

#include "absl/strings/str_replace.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
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
    JobSpec spec = spec_;
    spec.model = "tiny";
    spec.dataset = "rows";
    spec.lora.rank = 4;
    TrainTask task{.model_dir = path("model"),
                   .shard_dir = path("shards"),
                   .output_dir = path("out"),
                   .parent_dir = parent_dir_,
                   .spec = Resolve(spec, "run"),
                   .threads = 1,
                   .join = [] { return MakeSoloCommunicator(); },
                   .machine_memory_bytes = machine_memory_bytes_};
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

  JobSpec spec_ = [] {
    JobSpec spec;
    spec.learning_rate = 0.01;
    return spec;
  }();
  fs::path parent_dir_;
  int64_t machine_memory_bytes_ = 0;
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
  spec_.method = "qlora";
  const auto result = Train([] {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->parity.max_logit_difference, 0);
}

TEST_F(ParityTest, AnAdapterOverABaseInBf16IsLoadedOverOne) {
  spec_.base_dtype = "bf16";
  const auto result = Train([] {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->parity.max_logit_difference, 0);
}

TEST_F(ParityTest, FullTuningLeavesAModelFolderThatAnswersAsTheTrainedModel) {
  spec_.method = "full";
  const auto result = Train([] {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->parity.max_logit_difference, 0);
  EXPECT_EQ(result->parity.greedy_agreement, 1);
  EXPECT_EQ(result->adapter_sha256, *Sha256OfFile(path("out") / "model.safetensors"));
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(path("out"))) {
    names.insert(entry.path().filename().string());
    const bool weights = entry.path().filename() == "model.safetensors";
    EXPECT_EQ(*ReadFile(entry.path()) == *ReadFile(path("model") / entry.path().filename()),
              !weights)
        << entry.path();
  }
  EXPECT_THAT(names, ::testing::IsSupersetOf({"config.json", "tokenizer.json",
                                              "chat_template.jinja", "model.safetensors"}));
  int64_t parameters = 0;
  const auto written = SafetensorsFile::Open(path("out") / "model.safetensors");
  for (const TensorView& tensor : written->tensors()) {
    parameters += static_cast<int64_t>(tensor.bytes.size() / sizeof(float));
  }
  EXPECT_EQ(result->trained_parameters, parameters);
}

TEST_F(ParityTest, FullTuningOnAMachineThatIsTooSmallIsRefusedWithFigures) {
  spec_.method = "full";
  machine_memory_bytes_ = 256 << 10;
  const auto result = Train([] {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()),
              ::testing::MatchesRegex("method full needs .* KiB for [0-9]+ parameters \\(16 bytes "
                                      "each\\) and memory for activations; this machine has "
                                      "256.0 KiB: use .*"));
  spec_.reduction = "exact";
  EXPECT_THAT(std::string(Train([] {}).status().message()), HasSubstr("(24 bytes each)"));
  spec_.method = "sft";
  EXPECT_TRUE(Train([] {}).ok());
}

TEST_F(ParityTest, AFlippedTensorOfAWholeModelFailsTheJob) {
  spec_.method = "full";
  ExpectRefused(Train([&] { NegateLastTensor(path("out") / "model.safetensors"); }),
                "logit difference");
}

TEST_F(ParityTest, ASwappedTemplateOfAWholeModelFailsTheJob) {
  spec_.method = "full";
  ExpectRefused(
      Train([&] { std::ofstream(path("out") / "chat_template.jinja", std::ios::app) << "{# #}"; }),
      "the process that loads the export exited with 70");
}

// Held-out rows are the rows to train on here, and a step takes all of them.
TEST_F(ParityTest, AChildStartsFromExactlyItsParentsTensors) {
  spec_.batch_size = 12;
  fs::copy_file(path("shards") / "train.shard", path("shards") / "validation.shard",
                fs::copy_options::overwrite_existing);
  const auto parent = Train([] {});
  ASSERT_TRUE(parent.ok()) << parent.status();
  ASSERT_LT(observer_.after.at(0).loss, 0.99 * observer_.before.at(0).loss);
  fs::rename(path("out"), path("parent"));
  parent_dir_ = path("parent");
  spec_.learning_rate = 1e-30;  // No step moves a value.
  const size_t first_step = observer_.steps.size();
  const auto child = Train([] {});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(child->adapter_sha256, parent->adapter_sha256);
  EXPECT_EQ(*ReadFile(path("out") / "adapter_model.safetensors"),
            *ReadFile(path("parent") / "adapter_model.safetensors"));
  EXPECT_EQ(observer_.before.at(1).loss, observer_.after.at(0).loss);
  EXPECT_NEAR(observer_.steps.at(first_step).loss, observer_.after.at(0).loss, 1e-6);
}

TEST_F(ParityTest, AParentThatDoesNotFitIsRefused) {
  fs::copy("tests/data/tiny-adapter", path("parent"));  // Alpha 8, not 16.
  parent_dir_ = path("parent");
  const auto result = Train([] {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(result.status().message(), HasSubstr("parent_model: its adapter has another rank"));
  parent_dir_ = path("nowhere");
  EXPECT_THAT(Train([] {}).status().message(), HasSubstr("parent_model"));
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
