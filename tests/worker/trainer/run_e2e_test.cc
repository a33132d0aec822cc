// lathe-trainer run on the tiny model: the program, its ranks as processes, the files it leaves.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <regex>

#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"
#include "common/base/file.h"
#include "nlohmann/json.hpp"
#include "tests/testing/listening.h"
#include "tests/testing/subprocess.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Program;
using testing::Subprocess;

class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto folder = TempFolder::Make("run-e2e");
    ASSERT_TRUE(folder.ok()) << folder.status();
    folder_.emplace(*std::move(folder));
    ASSERT_TRUE(MakeFolder(path("tmp")).ok());
    WriteRows(40);
  }

  fs::path path(const std::string& name) const { return folder_->path() / name; }

  void WriteRows(int count) const {
    std::ofstream rows(path("rows.jsonl"));
    for (int i = 0; i < count; ++i) {
      rows << nlohmann::json{{"instruction", absl::StrCat("say the number ", i)},
                             {"output", absl::StrCat("it is ", i * i, std::string(1 + i % 7, '!'))}}
                  .dump()
           << "\n";
    }
  }

  // More lines of the job file, each ended.
  void WriteJob(const std::string& extra) const {
    std::ofstream(path("job.yaml")) << "model: tests/data/tiny-llama\n"
                                    << "dataset: " << path("rows.jsonl").string() << "\n"
                                    << "learning_rate: 0.01\nbatch_size: 5\nlora:\n  rank: 4\n"
                                    << extra;
  }

  std::vector<std::string> Command(const std::string& out, int ranks) const {
    // What a killed run leaves behind goes with the test's folder.
    return {"/usr/bin/env",
            absl::StrCat("TMPDIR=", path("tmp").string()),
            Program("lathe-trainer"),
            "run",
            path("job.yaml").string(),
            "--ranks",
            absl::StrCat(ranks),
            "--threads",
            "1",
            "--out",
            path(out).string()};
  }

  std::string FileSha(const std::string& out) const {
    const auto bytes = ReadFile(path(out) / "adapter_model.safetensors");
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? *bytes : "";
  }

  std::optional<TempFolder> folder_;
};

// The hashes that the ranks print.
std::vector<std::string> Hashes(const std::string& output, const std::string& kind = "adapter") {
  const std::regex line("rank \\d+: " + kind + " sha256 ([0-9a-f]{64})");
  std::vector<std::string> hashes;
  for (std::sregex_iterator it(output.begin(), output.end(), line), end; it != end; ++it) {
    hashes.push_back((*it)[1]);
  }
  return hashes;
}

double HeldOutLoss(const std::string& output, const std::string& when) {
  const std::regex line("held-out loss " + when + " training: ([0-9.]+)");
  std::smatch match;
  EXPECT_TRUE(std::regex_search(output, match, line)) << output;
  return match.empty() ? 0 : std::stod(match[1]);
}

TEST_F(RunTest, TwoRanksTrainAndWriteAPeftFolder) {
  WriteJob("");
  Subprocess run(Command("out", 2));
  const int status = run.Wait();
  ASSERT_EQ(status, 0) << run.output();
  const std::vector<std::string> hashes = Hashes(run.output());
  ASSERT_EQ(hashes.size(), 2U) << run.output();
  EXPECT_EQ(hashes[0], hashes[1]);
  EXPECT_LT(HeldOutLoss(run.output(), "after"), HeldOutLoss(run.output(), "before"));
  const auto config = ReadFile(path("out") / "adapter_config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(nlohmann::json::parse(*config).size(), 12U);
  EXPECT_FALSE(FileSha("out").empty());
}

TEST_F(RunTest, KilledRankIsStartedAgainAndTheResultHasTheSameBits) {
  WriteJob("epochs: 12\n");
  Subprocess undisturbed(Command("undisturbed", 2));
  ASSERT_EQ(undisturbed.Wait(), 0) << undisturbed.output();

  Subprocess run(Command("out", 2));
  ASSERT_TRUE(run.ReadUntil("step 2/")) << run.output();
  const std::vector<pid_t> ranks = run.Children();
  ASSERT_EQ(ranks.size(), 2U);
  for (const pid_t rank : ranks) EXPECT_THAT(testing::ListeningOffLoopback(rank), IsEmpty());
  ASSERT_EQ(kill(ranks[1], SIGKILL), 0);
  ASSERT_EQ(run.Wait(), 0) << run.output();
  EXPECT_THAT(run.output(), HasSubstr("attempt 1 of 6 failed: rank 1: killed by signal 9"));
  EXPECT_EQ(Hashes(run.output()).size(), 2U);
  EXPECT_EQ(FileSha("out"), FileSha("undisturbed"));
}

// What depends on the training alone in the lines that a user sees: losses and norms.
std::vector<std::string> Figures(const std::string& output) {
  const std::regex line(
      "(step \\d+/\\d+  loss \\S+  lr \\S+  grad \\S+|held-out loss [^\n]*accuracy[^\n]*)");
  std::vector<std::string> figures;
  for (std::sregex_iterator it(output.begin(), output.end(), line), end; it != end; ++it) {
    figures.push_back((*it)[1]);
  }
  return figures;
}

// Five micro-batches a step, of one row each, but for the last one of an epoch.
TEST_F(RunTest, ExactReductionGivesTheSameBitsWithOneRankTwoAndFour) {
  const std::string job = "  dropout: 0.1\nmicro_batch_tokens: 16\nepochs: 2\nreduction: ";
  WriteJob(job + "exact\n");
  Subprocess one(Command("one", 1));
  ASSERT_EQ(one.Wait(), 0) << one.output();
  EXPECT_EQ(Figures(one.output()).size(), 2U + 2 * 8) << one.output();
  for (const int ranks : {2, 4}) {
    const std::string out = absl::StrCat("of", ranks);
    Subprocess many(Command(out, ranks));
    ASSERT_EQ(many.Wait(), 0) << many.output();
    EXPECT_EQ(FileSha(out), FileSha("one")) << ranks << " ranks";
    EXPECT_EQ(Figures(many.output()), Figures(one.output()));
  }
  WriteJob(job + "fast\n");
  for (const int ranks : {1, 2}) {
    Subprocess fast(Command(absl::StrCat("fast", ranks), ranks));
    ASSERT_EQ(fast.Wait(), 0) << fast.output();
  }
  EXPECT_NE(FileSha("fast1"), FileSha("fast2")) << "the rows show no difference";
}

// Masks are functions of seed, step and micro-batch, so any rank draws the same ones. A step has
// two micro-batches here: the sums of one rank and of two have the same order.
TEST_F(RunTest, DropoutAndRankStabilisationGiveTheSameBitsForOneRankAndTwo) {
  WriteJob(
      "  dropout: 0.2\n  rslora: true\n  target_modules: [q_proj, mlp.down_proj]\n"
      "micro_batch_tokens: 400\nepochs: 2\n");
  Subprocess one(Command("one", 1));
  ASSERT_EQ(one.Wait(), 0) << one.output();
  Subprocess two(Command("two", 2));
  ASSERT_EQ(two.Wait(), 0) << two.output();
  EXPECT_EQ(FileSha("one"), FileSha("two"));
  const auto config = nlohmann::json::parse(*ReadFile(path("two") / "adapter_config.json"));
  EXPECT_EQ(config.at("use_rslora"), true);
  EXPECT_EQ(config.at("lora_dropout"), 0.2);
  EXPECT_EQ(config.at("target_modules"), (std::vector<std::string>{"mlp.down_proj", "q_proj"}));
}

TEST_F(RunTest, DoraTrainsAndItsFilesAreReadBackWithCheckpointedLayersOrWithout) {
  WriteJob("  dora: true\n  dropout: 0.1\nepochs: 6\n");
  Subprocess run(Command("out", 2));
  ASSERT_EQ(run.Wait(), 0) << run.output();
  EXPECT_LT(HeldOutLoss(run.output(), "after"), HeldOutLoss(run.output(), "before"));
  const auto config = nlohmann::json::parse(*ReadFile(path("out") / "adapter_config.json"));
  EXPECT_EQ(config.at("use_dora"), true);
  EXPECT_THAT(FileSha("out"), HasSubstr("q_proj.lora_magnitude_vector\""));
  WriteJob("  dora: true\n  dropout: 0.1\nepochs: 6\nactivation_checkpointing: true\n");
  Subprocess checkpointed(Command("checkpointed", 2));
  ASSERT_EQ(checkpointed.Wait(), 0) << checkpointed.output();
  EXPECT_EQ(FileSha("checkpointed"), FileSha("out"));
}

TEST_F(RunTest, QloraTrainsOverABaseInFourBits) {
  WriteJob("method: qlora\nmicro_batch_tokens: 400\nepochs: 6\n");
  Subprocess one(Command("one", 1));
  ASSERT_EQ(one.Wait(), 0) << one.output();
  EXPECT_LT(HeldOutLoss(one.output(), "after"), HeldOutLoss(one.output(), "before"));
  Subprocess two(Command("two", 2));
  ASSERT_EQ(two.Wait(), 0) << two.output();
  EXPECT_EQ(FileSha("one"), FileSha("two"));
  WriteJob("micro_batch_tokens: 400\nepochs: 6\n");
  Subprocess full(Command("full", 1));
  ASSERT_EQ(full.Wait(), 0) << full.output();
  EXPECT_NE(FileSha("one"), FileSha("full"));
}

TEST_F(RunTest, ABaseInBf16TrainsAnotherAdapterThatIsProbedOverIt) {
  const std::string job = "micro_batch_tokens: 400\nepochs: 6\n";
  WriteJob(job + "base_dtype: bf16\n");
  Subprocess narrow(Command("narrow", 1));
  ASSERT_EQ(narrow.Wait(), 0) << narrow.output();
  EXPECT_LT(HeldOutLoss(narrow.output(), "after"), HeldOutLoss(narrow.output(), "before"));
  WriteJob(job);
  Subprocess full(Command("full", 1));
  ASSERT_EQ(full.Wait(), 0) << full.output();
  EXPECT_NE(FileSha("narrow"), FileSha("full"));
  std::ofstream(path("prompts.json")) << R"({"prompts": [[1, 85, 91]], "max_new_tokens": 2})";
  const auto logits = [&](const std::string& storage) {
    Subprocess probe({Program("lathe-trainer"), "probe", "--model", "tests/data/tiny-llama",
                      "--adapter", path("narrow").string(), "--prompts",
                      path("prompts.json").string(), "--out", path(storage).string(),
                      "--base-storage", storage});
    EXPECT_EQ(probe.Wait(), 0) << probe.output();
    return *ReadFile(path(storage) / "logits.safetensors");
  };
  EXPECT_NE(logits("bf16"), logits("f32"));
}

TEST_F(RunTest, FullTuningMakesAModelThatCanBeTunedFurther) {
  const auto write_job = [&](const std::string& model, const std::string& extra) {
    std::ofstream(path("job.yaml"))
        << "model: " << model << "\ndataset: " << path("rows.jsonl").string()
        << "\nlearning_rate: 0.003\nbatch_size: 5\n"
        << extra;
  };
  write_job("tests/data/tiny-llama", "method: full\nweight_decay: 0.1\n");
  Subprocess one(Command("full", 2));
  ASSERT_EQ(one.Wait(), 0) << one.output();
  EXPECT_LT(HeldOutLoss(one.output(), "after"), HeldOutLoss(one.output(), "before"));
  const std::vector<std::string> hashes = Hashes(one.output(), "model");
  ASSERT_EQ(hashes.size(), 2U) << one.output();
  EXPECT_EQ(hashes[0], hashes[1]);
  EXPECT_THAT(one.output(), HasSubstr("largest logit difference 0"));
  write_job(path("full").string(), "epochs: 1\n");
  Subprocess adapter(Command("adapter", 1));
  ASSERT_EQ(adapter.Wait(), 0) << adapter.output();
  EXPECT_NEAR(HeldOutLoss(adapter.output(), "before"), HeldOutLoss(one.output(), "after"), 1e-3);
  write_job("tests/data/tiny-llama", "method: full\nlora:\n  rank: 8\n");
  Subprocess refused(Command("refused", 1));
  EXPECT_EQ(WEXITSTATUS(refused.Wait()), kExitUserError);
  EXPECT_THAT(refused.output(), HasSubstr("lora.rank is 8; method full"));
}

TEST_F(RunTest, AJobGoesOnFromAnAdapterFolder) {
  WriteJob("");
  Subprocess parent(Command("parent", 1));
  ASSERT_EQ(parent.Wait(), 0) << parent.output();
  const std::string extra = "parent_model: " + path("parent").string() + "\n";
  WriteJob(extra);
  Subprocess child(Command("child", 2));
  ASSERT_EQ(child.Wait(), 0) << child.output();
  EXPECT_EQ(HeldOutLoss(child.output(), "before"), HeldOutLoss(parent.output(), "after"));
  WriteJob("  alpha: 3\n" + extra);
  Subprocess refused(Command("refused", 1));
  EXPECT_EQ(WEXITSTATUS(refused.Wait()), kExitUserError);
  EXPECT_THAT(refused.output(), HasSubstr("lora.alpha is 3; parent_model 'parent' has 16"));
}

// Where there is a GPU this is no error: scripts/verify-gpu.
TEST_F(RunTest, AJobForAGpuEndsAtOnceWhereThereIsNone) {
  if (fs::exists("/dev/nvidia0")) GTEST_SKIP() << "this machine has a GPU";
  WriteJob("device: cuda\n");
  Subprocess run(Command("out", 1));
  const int status = run.Wait();
  EXPECT_EQ(WEXITSTATUS(status), kExitUserError) << run.output();
  const std::regex line("lathe-trainer: device is 'cuda'; this .*; must be cpu here\n");
  EXPECT_TRUE(std::regex_match(run.output(), line)) << run.output();
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(RunTest, RanksDieWithTheRun) {
  WriteJob("epochs: 100\n");
  Subprocess run(Command("out", 2));
  ASSERT_TRUE(run.ReadUntil("step 1/")) << run.output();
  ASSERT_EQ(kill(run.pid(), SIGKILL), 0);
  // The ranks hold the other end of the pipe: its end is theirs.
  EXPECT_EQ(WTERMSIG(run.Wait()), SIGKILL);
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(RunTest, SignalEndsTheRanksAndLeavesNothing) {
  WriteJob("epochs: 100\n");
  Subprocess run(Command("out", 2));
  ASSERT_TRUE(run.ReadUntil("step 1/")) << run.output();
  EXPECT_FALSE(fs::is_empty(path("tmp")));
  ASSERT_EQ(kill(run.pid(), SIGINT), 0);
  const int status = run.Wait();
  ASSERT_TRUE(WIFEXITED(status)) << DescribeExit(status);
  EXPECT_TRUE(fs::is_empty(path("tmp")));
  EXPECT_EQ(WEXITSTATUS(status), 130) << run.output();
  EXPECT_FALSE(fs::exists(path("out")));
}

// tests/oracle/README.md, greedy.json: the texts of transformers, cut after the end token.
TEST_F(RunTest, ProbeGivesTheGreedyTextOfTransformers) {
  const auto golden_text = ReadFile("tests/data/goldens/greedy.json");
  ASSERT_TRUE(golden_text.ok()) << golden_text.status();
  const auto golden = nlohmann::json::parse(*golden_text);
  const int64_t max_new_tokens = golden.at("max_new_tokens");
  std::ofstream(path("prompts.json"))
      << nlohmann::json{{"prompts", golden.at("prompts")}, {"max_new_tokens", max_new_tokens}};
  Subprocess probe({Program("lathe-trainer"), "probe", "--model", "tests/data/tiny-llama",
                    "--adapter", "tests/data/tiny-adapter", "--prompts",
                    path("prompts.json").string(), "--out", path("probe").string()});
  ASSERT_EQ(probe.Wait(), 0) << probe.output();
  const auto text = ReadFile(path("probe") / "greedy.json");
  ASSERT_TRUE(text.ok()) << text.status();
  const auto ours = nlohmann::json::parse(*text);
  constexpr int kEnd = 2;
  for (const std::string which : {"adapter", "base"}) {
    ASSERT_EQ(ours.at(which).size(), golden.at(which).size());
    for (size_t i = 0; i < golden.at(which).size(); ++i) {
      auto expected = golden.at(which).at(i).get<std::vector<int>>();
      const auto end = std::find(expected.begin(), expected.end(), kEnd);
      if (end != expected.end()) expected.erase(end + 1, expected.end());
      EXPECT_EQ(ours.at(which).at(i).get<std::vector<int>>(), expected) << which << " " << i;
    }
  }
}

TEST_F(RunTest, RefusesWhatItCannotDoInOneLine) {
  std::ofstream(path("job.yaml")) << "model: nowhere/at/all\ndataset: x\n";
  Subprocess missing(Command("out", 1));
  EXPECT_EQ(WEXITSTATUS(missing.Wait()), kExitUserError);
  EXPECT_THAT(missing.output(), HasSubstr("model is 'nowhere/at/all'"));
  EXPECT_EQ(std::count(missing.output().begin(), missing.output().end(), '\n'), 1);
  WriteJob("");
  std::ofstream(path("taken")) << "x";
  Subprocess taken(Command("taken", 1));
  EXPECT_NE(taken.Wait(), 0);
  EXPECT_THAT(taken.output(), HasSubstr("is there already"));
  Subprocess usage({Program("lathe-trainer"), "run"});
  EXPECT_EQ(WEXITSTATUS(usage.Wait()), 2);
}

}  // namespace
}  // namespace lathe
