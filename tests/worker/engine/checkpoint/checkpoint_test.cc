#include "worker/engine/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "common/base/sha256.h"
#include "worker/engine/checkpoint/checkpoint_writer.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

CheckpointManifest ManifestOf(int64_t step) {
  return {.step = step,
          .attempt = 2,
          .ledger = 0xfedcba9876543210,
          .context = {{"rows", "abc"}, {"settings", "def"}},
          .machine = "a processor, 1 thread",
          .proof = {0x3ff0000000000001, "0123"},
          .slices = {{"layers.0.weight", {2, 3}, 0}, {"layers.1.weight", {4}, 6}},
          .files = {}};
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() : temp_(*TempFolder::Make("checkpoint-test")) {}

  fs::path folder() const { return temp_.path() / "checkpoints"; }
  // Ten floats whose bytes are all `value`.
  std::vector<TensorView> StateOf(char value) {
    bytes_.assign(40, value);
    return {{"values", Dtype::kF32, {10}, bytes_}, {"moments", Dtype::kF32, {10}, bytes_}};
  }
  fs::path Write(int64_t step) {
    auto pending = PendingCheckpoint::Write(folder(), StateOf(static_cast<char>(step)));
    EXPECT_TRUE(pending.ok()) << pending.status();
    const auto dir = pending->Publish(ManifestOf(step));
    EXPECT_TRUE(dir.ok()) << dir.status();
    return *dir;
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder())) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  TempFolder temp_;
  std::string bytes_;
};

std::string Bytes(const fs::path& path) { return *ReadFile(path); }
void Overwrite(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

TEST_F(CheckpointTest, ComesBackAsItWasWritten) {
  const fs::path dir = Write(40);
  EXPECT_EQ(dir.filename(), "step-000000040");
  const auto read = OpenCheckpoint(dir);
  ASSERT_TRUE(read.ok()) << read.status();
  CheckpointManifest expected = ManifestOf(40);
  expected.files = read->manifest.files;
  EXPECT_EQ(read->manifest, expected);
  EXPECT_EQ(read->state.Find("values")->bytes, std::string(40, 40));
  EXPECT_THAT(Names(), ElementsAre("step-000000040"));
}

TEST_F(CheckpointTest, EveryFlippedByteIsNoticed) {
  const fs::path dir = Write(7);
  for (const char* name : {"manifest.json", "state.safetensors"}) {
    const std::string whole = Bytes(dir / name);
    for (size_t i = 0; i < whole.size(); ++i) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ 1);
      Overwrite(dir / name, damaged);
      const absl::Status status = OpenCheckpoint(dir).status();
      ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << name << " " << i << ": " << status;
      ASSERT_THAT(status.message(), HasSubstr("step-000000007"));
    }
    Overwrite(dir / name, whole);
  }
  EXPECT_TRUE(OpenCheckpoint(dir).ok());
}

TEST_F(CheckpointTest, AFileThatIsCutOrMissingIsNoticed) {
  const fs::path dir = Write(7);
  const std::string whole = Bytes(dir / "state.safetensors");
  Overwrite(dir / "state.safetensors", whole.substr(0, whole.size() - 1));
  EXPECT_EQ(OpenCheckpoint(dir).status().code(), absl::StatusCode::kDataLoss);
  fs::remove(dir / "state.safetensors");
  EXPECT_EQ(OpenCheckpoint(dir).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(OpenCheckpoint(folder() / "step-9").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CheckpointTest, OnlyCompleteOnesAreSeen) {
  {
    const auto pending = PendingCheckpoint::Write(folder(), StateOf(1));
    ASSERT_TRUE(pending.ok()) << pending.status();
    EXPECT_THAT(Names(), ElementsAre(::testing::StartsWith(".checkpoint")));
  }
  EXPECT_THAT(Names(), ElementsAre());
}

TEST_F(CheckpointTest, ADamagedOneIsPassedAndTheOneBeforeIsTaken) {
  std::vector<std::string> damaged;
  const auto note = [&](const absl::Status& status) {
    damaged.push_back(std::string(status.message()));
  };
  EXPECT_FALSE((*OpenNewestCheckpoint(folder(), note)).has_value());
  Write(9);
  Write(10);
  const fs::path newest = Write(100);
  EXPECT_EQ((*OpenNewestCheckpoint(folder(), note))->manifest.step, 100);
  Overwrite(newest / "manifest.json", "");
  EXPECT_EQ((*OpenNewestCheckpoint(folder(), note))->manifest.step, 10);
  EXPECT_THAT(damaged, ElementsAre(HasSubstr("step-000000100")));
}

TEST_F(CheckpointTest, TheSameStepAgainReplacesOnlyADamagedOne) {
  const fs::path dir = Write(5);
  const auto time = fs::last_write_time(dir / "manifest.json");
  Write(5);
  EXPECT_EQ(fs::last_write_time(dir / "manifest.json"), time);
  Overwrite(dir / "manifest.json", "x");
  Write(5);
  EXPECT_TRUE(OpenCheckpoint(dir).ok());
  EXPECT_THAT(Names(), ElementsAre("step-000000005"));
}

TEST_F(CheckpointTest, TheNewestAreKept) {
  for (const int64_t step : {3, 20, 100}) Write(step);
  fs::create_directory(folder() / ".checkpoint.abcdef");  // Of a crash.
  ASSERT_TRUE(KeepNewestCheckpoints(folder(), 2).ok());
  EXPECT_THAT(Names(), ElementsAre("step-000000020", "step-000000100"));
}

TEST(ManifestTest, AnotherContextIsNamed) {
  const CheckpointManifest manifest = ManifestOf(1);
  EXPECT_TRUE(CheckContext(manifest, manifest.context).ok());
  const absl::Status other = CheckContext(manifest, {{"rows", "xyz"}, {"settings", "def"}});
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(other.message(), "rows differs: the checkpoint has abc, this training xyz");
  EXPECT_THAT(CheckContext(manifest, {{"rows", "abc"}}).message(),
              HasSubstr("settings differs: the checkpoint has def, this training nothing"));
}

TEST(ManifestTest, ATextWithARightHashIsStillChecked) {
  for (const char* line :
       {"", "[]", "{}", R"({"version":1})", R"({"version":2})", R"({"version":1,"step":"x"})"}) {
    const std::string text = absl::StrCat(line, "\n", Sha256Hex(line), "\n");
    EXPECT_EQ(ParseManifest(text).status().code(), absl::StatusCode::kDataLoss) << line;
  }
}

class CheckpointWriterTest : public CheckpointTest {};

TEST_F(CheckpointWriterTest, WritesTheStateAsItWasAtTheBegin) {
  for (const int64_t max_copied_bytes : {int64_t{0}, int64_t{1} << 20}) {
    CheckpointWriter writer({.folder = folder(), .max_copied_bytes = max_copied_bytes});
    writer.Begin(StateOf(1));
    EXPECT_TRUE(writer.busy());
    bytes_.assign(40, 2);  // The training goes on.
    writer.Complete(ManifestOf(max_copied_bytes + 1));
    writer.Wait();
    const auto outcome = writer.TakeOutcome();
    ASSERT_TRUE(outcome.has_value());
    ASSERT_TRUE(outcome->ok()) << outcome->status();
    EXPECT_FALSE(writer.TakeOutcome().has_value());
    EXPECT_FALSE(writer.busy());
    EXPECT_EQ(OpenCheckpoint(**outcome)->state.Find("values")->bytes, std::string(40, 1));
  }
}

TEST_F(CheckpointWriterTest, KeepsTheNewestAndDropsWhatIsNotCompleted) {
  {
    CheckpointWriter writer({.folder = folder(), .keep = 2});
    for (const int64_t step : {10, 20, 30}) {
      writer.Begin(StateOf(static_cast<char>(step)));
      writer.Complete(ManifestOf(step));
      writer.Wait();
    }
    writer.Begin(StateOf(40));
  }
  EXPECT_THAT(Names(), ElementsAre("step-000000020", "step-000000030"));
}

TEST_F(CheckpointWriterTest, AFolderThatCannotBeWrittenIsAnOutcome) {
  Overwrite(folder(), "a file");
  CheckpointWriter writer({.folder = folder()});
  writer.Begin(StateOf(1));
  writer.Complete(ManifestOf(1));
  writer.Wait();
  EXPECT_FALSE(writer.TakeOutcome()->ok());
}

}  // namespace
}  // namespace lathe
