// A training that goes on from a checkpoint, with the real program that verifies the export.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "common/base/exit_codes.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "tests/testing/fake_observer.h"
#include "tests/testing/shards.h"
#include "tests/testing/subprocess.h"
#include "worker/engine/checkpoint/checkpoint.h"
#include "worker/engine/dist/communicator_gloo.h"
#include "worker/trainer/train_task.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// As in communicator_gloo_test.cc: ranks are threads here.
const int kNoFlightRecorder = setenv("TORCH_FR_BUFFER_SIZE", "0", /*overwrite=*/1);

class ResumeTest : public ::testing::Test {
 protected:
  ResumeTest() : folder_(*TempFolder::Make("resume-e2e")) {
    fs::copy("tests/data/tiny-llama", path("model"));
    EXPECT_TRUE(MakeFolder(path("shards")).ok());
    std::vector<testing::OwnedRow> rows;
    for (uint64_t i = 0; i < 12; ++i) rows.push_back(testing::RandomRow(20 + i, 5 + i, i));
    testing::WriteShard(rows, path("shards") / "train.shard");
    testing::WriteShard({rows[0]}, path("shards") / "validation.shard");
    spec_.model = "tiny";
    spec_.dataset = "rows";
    spec_.batch_size = 4;
    spec_.learning_rate = 0.01;
    spec_.lora.rank = 4;
    spec_.lora.dropout = 0.1;
    spec_.checkpoint.every_steps = 4;
  }

  fs::path path(const std::string& name) const { return folder_.path() / name; }

  absl::StatusOr<TrainResult> Train(const JobSpec& spec, const fs::path& resume_dir,
                                    std::stop_token pause = {}) {
    observer_ = {};
    TrainTask task = Task(spec, resume_dir);
    task.pause = std::move(pause);
    absl::StatusOr<TrainResult> result = RunTrainTask(task, observer_, {});
    fs::remove_all(path("out"));
    return result;
  }

  // The same by ranks that are threads of this process, over real sockets. What rank 0 has.
  absl::StatusOr<TrainResult> TrainRanks(int ranks, const JobSpec& spec,
                                         const fs::path& resume_dir) {
    LATHE_ASSIGN_OR_RETURN(BoundSocket bound, BindLoopback());
    std::vector<absl::StatusOr<TrainResult>> results(static_cast<size_t>(ranks));
    std::vector<testing::FakeObserver> observers(results.size());
    {
      std::vector<std::jthread> threads;
      for (size_t rank = 0; rank < results.size(); ++rank) {
        threads.emplace_back([&, rank] {
          TrainTask task = Task(spec, resume_dir);
          task.join = [&, rank] {
            GlooOptions options;
            options.rank = static_cast<int>(rank);
            options.size = ranks;
            options.port = bound.port;
            if (rank == 0) options.listen_fd = std::move(bound.fd);
            return JoinGlooGroup(std::move(options));
          };
          results[rank] = RunTrainTask(task, observers[rank], {});
        });
      }
    }
    observer_ = observers[0];
    fs::remove_all(path("out"));
    return std::move(results[0]);
  }

  TrainTask Task(const JobSpec& spec, const fs::path& resume_dir) const {
    TrainTask task{.model_dir = path("model"),
                   .shard_dir = path("shards"),
                   .output_dir = path("out"),
                   .parent_dir = {},
                   .checkpoint_dir = path("checkpoints"),
                   .resume_dir = resume_dir,
                   .spec = Resolve(spec, "run"),
                   .threads = 1,
                   .join = [] { return MakeSoloCommunicator(); },
                   .machine_memory_bytes = 0};
    task.answer_afresh = [](const AnswerRequest& request) {
      return AnswerAfresh(request, testing::Program("lathe-trainer"));
    };
    return task;
  }

  // The newest one of a whole training, copied: another training would replace it.
  fs::path CheckpointOf(const TrainResult& whole) {
    EXPECT_EQ(whole.resumed_step, 0);
    const auto newest = OpenNewestCheckpoint(
        path("checkpoints"), [](const absl::Status& damaged) { ADD_FAILURE() << damaged; });
    EXPECT_TRUE(newest.ok() && newest->has_value()) << newest.status();
    step_ = (*newest)->manifest.step;
    char name[32];
    std::snprintf(name, sizeof(name), "step-%09d", static_cast<int>(step_));
    fs::rename(path("checkpoints") / name, path("kept"));
    return path("kept");
  }

  // Writes the manifest anew, hash and all.
  static void Edit(const fs::path& dir, const std::function<void(CheckpointManifest&)>& change) {
    CheckpointManifest manifest = *ParseManifest(*ReadFile(dir / "manifest.json"));
    change(manifest);
    ASSERT_TRUE(WriteFileAtomically(dir / "manifest.json", ManifestToText(manifest)).ok());
  }

  TempFolder folder_;
  JobSpec spec_;
  testing::FakeObserver observer_;
  int64_t step_ = 0;
};

TEST_F(ResumeTest, EndsWithTheBitsAndTheLedgerOfAnUndisturbedTrainingAndProvesIt) {
  for (const char* method : {"sft", "full"}) {
    spec_.method = method;
    if (IsFullTuning(spec_)) spec_.lora = {};
    const auto whole = Train(spec_, {});
    ASSERT_TRUE(whole.ok()) << whole.status();
    const auto loss_after = observer_.after;
    const fs::path checkpoint = CheckpointOf(*whole);
    const auto resumed = Train(spec_, checkpoint);
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(resumed->adapter_sha256, whole->adapter_sha256);
    EXPECT_EQ(resumed->ledger, whole->ledger);
    EXPECT_EQ(resumed->resumed_step, step_);
    EXPECT_TRUE(resumed->resume_verified);
    EXPECT_EQ(observer_.steps.front().step, step_ + 1);
    EXPECT_TRUE(observer_.before.empty());
    EXPECT_EQ(observer_.after.at(0).loss, loss_after.at(0).loss);
    fs::remove_all(path("kept"));
    fs::remove_all(path("checkpoints"));
  }
}

// Four micro-batches a step.
TEST_F(ResumeTest, WithExactReductionAnotherNumberOfRanksGoesOnWithTheSameBits) {
  spec_.reduction = "exact";
  spec_.micro_batch_tokens = 16;
  const auto whole = TrainRanks(2, spec_, {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  const std::vector<Evaluation> after = observer_.after;
  const std::vector<StepStats> steps = observer_.steps;
  const fs::path checkpoint = CheckpointOf(*whole);
  for (const int ranks : {1, 4}) {
    spec_.ranks = ranks;
    const auto resumed = TrainRanks(ranks, spec_, checkpoint);
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(resumed->adapter_sha256, whole->adapter_sha256) << ranks << " ranks";
    EXPECT_EQ(resumed->ledger, whole->ledger);
    EXPECT_EQ(resumed->resumed_step, step_);
    EXPECT_TRUE(resumed->resume_verified);
    EXPECT_EQ(observer_.after.at(0).loss, after.at(0).loss);
    EXPECT_EQ(observer_.steps.back().loss, steps.back().loss);
    EXPECT_EQ(observer_.steps.back().grad_norm, steps.back().grad_norm);
  }
  // Of the other reduction it is no checkpoint: the bits would change on the way.
  spec_.reduction = "fast";
  EXPECT_THAT(Train(spec_, checkpoint).status().message(), HasSubstr("settings differs"));
}

TEST_F(ResumeTest, APausedTrainingLeavesACheckpointOfItsLastStep) {
  const auto whole = Train(spec_, {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  for (const int every_steps : {1, 4}) {  // One of that step is on its way, or none.
    fs::remove_all(path("checkpoints"));
    spec_.checkpoint.every_steps = every_steps;
    std::stop_source pause;
    pause.request_stop();
    const absl::Status paused = Train(spec_, {}, pause.get_token()).status();
    EXPECT_EQ(paused.code(), absl::StatusCode::kCancelled) << paused;
    EXPECT_EQ(paused.message(), "stopped after step 1 of 9");
    const auto resumed = Train(spec_, path("checkpoints") / "step-000000001");
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(resumed->adapter_sha256, whole->adapter_sha256);
    EXPECT_TRUE(resumed->resume_verified);
  }
}

TEST_F(ResumeTest, OtherBitsThanBeforeAreAnErrorOnTheSameMachineAndAWarningOnAnother) {
  const auto whole = Train(spec_, {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  const fs::path checkpoint = CheckpointOf(*whole);
  Edit(checkpoint, [](CheckpointManifest& manifest) { manifest.proof.loss_bits ^= 1; });
  const auto refused = Train(spec_, checkpoint);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(refused.status().message(), HasSubstr("the first micro-batch has other bits"));
  EXPECT_TRUE(observer_.steps.empty());
  Edit(checkpoint, [](CheckpointManifest& manifest) { manifest.machine = "another one"; });
  const auto elsewhere = Train(spec_, checkpoint);
  ASSERT_TRUE(elsewhere.ok()) << elsewhere.status();
  EXPECT_FALSE(elsewhere->resume_verified);
}

TEST_F(ResumeTest, ACheckpointOfAnotherTrainingIsRefusedByWhatDiffers) {
  const auto whole = Train(spec_, {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  const fs::path checkpoint = CheckpointOf(*whole);
  JobSpec other = spec_;
  other.learning_rate = 0.02;
  const absl::Status settings = Train(other, checkpoint).status();
  EXPECT_EQ(settings.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(settings.message(), HasSubstr("settings differs"));
  EXPECT_TRUE(IsBadCheckpoint(settings)) << "the job starts anew";
  other = spec_;  // What changes no number.
  other.name = "another-name";
  other.checkpoint.every_steps = 2;
  other.activation_checkpointing = true;
  EXPECT_EQ(Train(other, checkpoint)->adapter_sha256, whole->adapter_sha256);
  testing::WriteShard({testing::RandomRow(20, 5, 1)}, path("shards") / "train.shard");
  EXPECT_THAT(Train(spec_, checkpoint).status().message(), HasSubstr("rows differs"));
}

TEST_F(ResumeTest, ADamagedOrMissingCheckpointIsSaidToBeBadAndOtherBitsAreNot) {
  const auto whole = Train(spec_, {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  const fs::path checkpoint = CheckpointOf(*whole);
  Edit(checkpoint, [](CheckpointManifest& manifest) { manifest.proof.loss_bits ^= 1; });
  EXPECT_FALSE(IsBadCheckpoint(Train(spec_, checkpoint).status())) << "a bug must be seen";
  fs::resize_file(checkpoint / "state.safetensors", 100);
  EXPECT_TRUE(IsBadCheckpoint(Train(spec_, checkpoint).status()));
  fs::remove_all(checkpoint);
  EXPECT_TRUE(IsBadCheckpoint(Train(spec_, checkpoint).status()));
}

}  // namespace
}  // namespace lathe
