// A job file for every model family: imported by lathe-prepare, trained by lathe-trainer run, its
// adapter loaded again by lathe-trainer probe.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/file.h"
#include "nlohmann/json.hpp"
#include "tests/testing/subprocess.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Program;
using testing::Subprocess;

class FamilyRunTest : public ::testing::TestWithParam<const char*> {
 protected:
  FamilyRunTest() : folder_(*TempFolder::Make("family-e2e")) {}

  fs::path path(const std::string& name) const { return folder_.path() / name; }

  // The family's files with the tiny Llama's tokenizer.
  void WriteSource() const {
    fs::create_directories(path("source"));
    for (const auto& entry : fs::directory_iterator(fs::path("tests/data/families") / GetParam())) {
      const std::string name = entry.path().filename();
      if (name.starts_with("model") || name == "config.json") {
        fs::copy_file(entry, path("source") / name);
      }
    }
    if (absl::EndsWith(GetParam(), "t5")) {
      fs::copy_file("tests/data/sentencepiece/unigram.model", path("source") / "spiece.model");
      std::ofstream(path("source") / "tokenizer_config.json")
          << R"({"tokenizer_class": "T5Tokenizer"})";
      return;
    }
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}) {
      fs::copy_file(fs::path("tests/data/tiny-llama") / name, path("source") / name);
    }
  }

  void WriteJob() const {
    std::ofstream rows(path("rows.jsonl"));
    for (int i = 0; i < 30; ++i) {
      rows << nlohmann::json{{"instruction", absl::StrCat("say ", i)}, {"output", "it is 42!"}}
                  .dump()
           << "\n";
    }
    std::ofstream(path("job.yaml"))
        << "model: " << path("model").string() << "\ndataset: " << path("rows.jsonl").string()
        << "\nlearning_rate: 0.01\nbatch_size: 5\nlora:\n  rank: 2\n"
           "  target_modules: [all-linear]\n";
  }

  static void ExpectSuccess(const std::vector<std::string>& command, std::string* output) {
    Subprocess program(command);
    const int status = program.Wait();
    *output = program.output();
    ASSERT_EQ(status, 0) << *output;
  }

  TempFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(Families, FamilyRunTest,
                         ::testing::Values("llama3", "mistral", "qwen2", "qwen3", "chatglm3", "t5",
                                           "flan-t5"),
                         [](const auto& test) {
                           return absl::StrReplaceAll(test.param, {{"-", ""}});
                         });

double HeldOutLoss(const std::string& output, const std::string& when) {
  std::smatch match;
  EXPECT_TRUE(std::regex_search(output, match,
                                std::regex("held-out loss " + when + " training: ([0-9.]+)")))
      << output;
  return match.empty() ? 0 : std::stod(match[1]);
}

TEST_P(FamilyRunTest, AJobFileTrainsAnAdapterThatLoadsAgain) {
  WriteSource();
  WriteJob();
  std::string output;
  ExpectSuccess({Program("lathe-prepare"), "import", path("source"), "--out", path("model")},
                &output);
  ExpectSuccess({Program("lathe-trainer"), "run", path("job.yaml"), "--threads", "1", "--out",
                 path("adapter")},
                &output);
  EXPECT_LT(HeldOutLoss(output, "after"), 0.8 * HeldOutLoss(output, "before"));
  std::ofstream(path("prompts.json")) << R"({"prompts": [[1, 85, 91, 85]], "max_new_tokens": 8})";
  ExpectSuccess({Program("lathe-trainer"), "probe", "--model", path("model"), "--adapter",
                 path("adapter"), "--prompts", path("prompts.json"), "--out", path("probe")},
                &output);
  const auto greedy = nlohmann::json::parse(*ReadFile(path("probe") / "greedy.json"));
  EXPECT_NE(greedy.at("adapter"), greedy.at("base"));
}

}  // namespace
}  // namespace lathe
