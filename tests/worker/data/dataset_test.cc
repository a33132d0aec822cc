#include "worker/data/dataset.h"

#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

const TextModel& Model() {
  static const TextModel* const model = TextModel::Load("tests/data/tiny-llama")->release();
  return *model;
}

std::string RowText(const std::string& question, const std::string& answer,
                    const std::string& more = "") {
  return absl::StrCat(R"({"instruction":")", question, R"(","output":")", answer, "\"", more,
                      "}\n");
}

std::string ManyRows(int count) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text += RowText(absl::StrCat("question ", i), absl::StrCat("answer ", i));
  return text;
}

std::vector<std::string> Codes(const DatasetReport& report) {
  std::vector<std::string> codes;
  for (const RowProblem& problem : report.problems)
    codes.push_back(absl::StrCat(problem.row, ":", ProblemName(problem.code)));
  return codes;
}

class DatasetTest : public ::testing::Test {
 protected:
  DatasetTest()
      : folder_(*TempFolder::Make("dataset")),
        source_{folder_.path() / "rows", ""},
        out_(folder_.path() / "out") {}

  void Write(const std::string& text) const {
    std::ofstream(source_.path, std::ios::binary | std::ios::trunc) << text;
  }
  absl::StatusOr<DatasetReport> Prepare() const {
    return PrepareDataset(source_, Model(), out_, options_);
  }
  Shard Open(const char* name) const { return *Shard::Open(out_ / name); }

  TempFolder folder_;
  DataSource source_;
  fs::path out_;
  DatasetOptions options_;
};

TEST_F(DatasetTest, ACheckCountsRowsAndNamesBadOnes) {
  Write(RowText("a", "b", R"(,"task":"x")") + "{\"a\":\n" + RowText("c", "") +
        RowText("d", "\xFF") + RowText("e", "f", R"(,"task":"x")"));
  const DatasetReport report = *CheckDataset(source_, nullptr, options_);
  EXPECT_EQ(report.rows, 5);
  EXPECT_EQ(report.good_rows, 2);
  EXPECT_EQ(report.refused_rows, 3);
  EXPECT_EQ(report.training_rows + report.validation_rows, 2);
  EXPECT_THAT(Codes(report), ElementsAre("1:bad_json", "2:empty_answer", "3:bad_utf8"));
  EXPECT_EQ(report.problems[2].line, 4);
  EXPECT_EQ(report.rows_by_format, (std::map<std::string, int64_t>{{"alpaca", 2}}));
  EXPECT_EQ(report.rows_by_task, (std::map<std::string, int64_t>{{"x", 2}}));
  EXPECT_EQ(report.total_tokens, 0);
}

TEST_F(DatasetTest, ACheckOfRowsThatAreAllRefusedIsAReport) {
  Write("[1, \"x\", null]");
  const DatasetReport report = *CheckDataset(source_, nullptr, options_);
  EXPECT_EQ(report.good_rows, 0);
  EXPECT_THAT(Codes(report), ElementsAre("0:not_an_object", "1:not_an_object", "2:not_an_object"));
}

TEST_F(DatasetTest, AnEmptyDataSetIsRefused) {
  for (const char* text : {"", "\n\n", "[]", "\xEF\xBB\xBF"}) {
    Write(text);
    EXPECT_EQ(CheckDataset(source_, nullptr, options_).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(Prepare().status().message()), HasSubstr("has no rows"));
  }
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(DatasetTest, CheckAndPrepareOfTheSameFileSayTheSame) {
  Write(ManyRows(40) + "{}\n" + RowText("question 3", "answer 3"));
  const DatasetReport check = *CheckDataset(source_, &Model(), options_);
  const DatasetReport prepared = *Prepare();
  EXPECT_EQ(ReportToJson(check), ReportToJson(prepared));
  EXPECT_EQ(ReportToJson(check) + "\n", *ReadFile(out_ / "report.json"));
  EXPECT_EQ(check.good_rows, 41);
  EXPECT_GT(check.trained_tokens, 0);
  EXPECT_GT(check.total_tokens, check.trained_tokens);
}

TEST_F(DatasetTest, ThreadsDoNotChangeTheShards) {
  Write(ManyRows(1500));
  ASSERT_TRUE(Prepare().ok());
  const std::string bytes = *ReadFile(out_ / "train.shard");
  options_.threads = 3;
  ASSERT_TRUE(Prepare().ok());
  EXPECT_EQ(*ReadFile(out_ / "train.shard"), bytes);
}

TEST_F(DatasetTest, ShardsHoldTheRowsOfTheirSide) {
  Write(RowText("a", "b", R"(,"split":"validation")") + "{}\n" + RowText("c", "d") +
        RowText("e", "f", R"(,"split":"train")") + RowText("c", "d", R"(,"split":"validation")"));
  const DatasetReport report = *Prepare();
  EXPECT_EQ(report.training_rows, 2);
  EXPECT_EQ(report.validation_rows, 1);
  EXPECT_THAT(Codes(report), ElementsAre("1:unknown_form", "4:in_training", "4:duplicate_row"));
  const Shard training = Open("train.shard");
  const Shard validation = Open("validation.shard");
  ASSERT_EQ(training.num_rows(), 2U);
  EXPECT_EQ(training.row(0).row, 2);
  EXPECT_EQ(training.row(1).row, 3);
  ASSERT_EQ(validation.num_rows(), 1U);
  EXPECT_EQ(validation.row(0).row, 0);
  EXPECT_EQ(training.template_sha256(), Model().template_sha256());
  const EncodedRow expected = *[] {
    Findings findings;
    return EncodeRow(Model(), {{Role::kUser, "c", true}, {Role::kAssistant, "d", true}}, {},
                     TooLong::kError, findings);
  }();
  EXPECT_EQ(RowSha256(training.row(0)), RowSha256(expected.view(0)));
}

TEST_F(DatasetTest, NoCopyOfATrainingRowIsHeldOut) {
  options_.spec.validation_fraction = 0.3;
  Write(ManyRows(50) + ManyRows(50) + ManyRows(25));
  ASSERT_TRUE(Prepare().ok());
  std::map<std::string, char> side_of;
  const auto collect = [&](const Shard& shard, char side) {
    for (size_t i = 0; i < shard.num_rows(); ++i) {
      const auto [it, is_new] = side_of.emplace(RowSha256(shard.row(i)), side);
      EXPECT_EQ(it->second, side);
    }
  };
  collect(Open("train.shard"), 't');
  collect(Open("validation.shard"), 'v');
  EXPECT_EQ(side_of.size(), 50U);
  EXPECT_EQ(std::count_if(side_of.begin(), side_of.end(), [](auto& s) { return s.second == 'v'; }),
            15);
}

TEST_F(DatasetTest, ThePreviewIsTheRowOfTheShard) {
  options_.spec.validation_fraction = 0;
  options_.spec.max_length = 256;
  Write(ManyRows(5) + "x\n" + RowText("long", std::string(2000, 'z')));
  ASSERT_TRUE(Prepare().ok());
  const Shard shard = Open("train.shard");
  ASSERT_EQ(shard.num_rows(), 6U);
  for (size_t i = 0; i < shard.num_rows(); ++i) {
    const TokenRow row = shard.row(i);
    const DatasetPreview preview = *PreviewRow(source_, Model(), row.row, options_);
    EXPECT_EQ(preview.row_sha256, RowSha256(row));
    EXPECT_EQ(preview.line, row.row + 1);
    ASSERT_GE(preview.tokens.size(), row.ids.size());
    for (size_t t = 0; t < row.ids.size(); ++t) {
      EXPECT_EQ(preview.tokens[t].id, row.ids[t]);
      EXPECT_EQ(preview.tokens[t].trained, row.trained[t] == 1);
    }
  }
  const DatasetPreview cut = *PreviewRow(source_, Model(), 6, options_);
  EXPECT_EQ(cut.tokens.size(), 256U + 256U);
  EXPECT_EQ(cut.tokens[255].reason, "assistant");
  EXPECT_EQ(cut.tokens[256].reason, "truncated");
  EXPECT_FALSE(cut.tokens[256].trained);
}

TEST_F(DatasetTest, APreviewOfABadOrMissingRowSaysWhy) {
  Write(ManyRows(2) + "{}\n");
  const absl::Status bad = PreviewRow(source_, Model(), 2, options_).status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bad.message()), HasSubstr("line 3 (row 2): unknown_form"));
  for (const int64_t row : {int64_t{3}, int64_t{-1}}) {
    const absl::Status missing = PreviewRow(source_, Model(), row, options_).status();
    EXPECT_EQ(missing.code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(missing.message()), HasSubstr("must be in [0, 3)"));
  }
}

TEST_F(DatasetTest, WhatCannotBeTrainedNamesTheFirstReason) {
  Write("{}\n" + RowText("a", "") + "nonsense\n");
  EXPECT_THAT(std::string(Prepare().status().message()),
              HasSubstr("none of 3 rows can be trained; line 1 (row 0): unknown_form"));
  options_.spec.max_length = 16;
  Write(RowText(std::string(200, 'q'), "a"));
  EXPECT_THAT(std::string(Prepare().status().message()), HasSubstr("no_trained_token"));
  Write(RowText("a", "b", R"(,"split":"validation")"));
  options_.spec.max_length = 512;
  EXPECT_THAT(std::string(Prepare().status().message()), HasSubstr("every row is held out"));
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(DatasetTest, TooLongRowsAreCutDroppedOrAnError) {
  options_.spec.max_length = 256;
  options_.spec.validation_fraction = 0;
  Write(ManyRows(3) + RowText("long", std::string(2000, 'z')));
  const DatasetReport cut = *Prepare();
  EXPECT_EQ(cut.truncated_rows, 1);
  EXPECT_GT(cut.longest_row_tokens, 1000);
  EXPECT_EQ(Open("train.shard").row(3).ids.size(), 256U);
  options_.spec.on_too_long = "drop";
  EXPECT_THAT(Codes(*Prepare()), ElementsAre("3:too_long"));
  EXPECT_EQ(Open("train.shard").num_rows(), 3U);
  options_.spec.on_too_long = "error";
  const absl::Status status = Prepare().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("line 4 (row 3): too_long"));
}

TEST_F(DatasetTest, AListThatBreaksOffIsReportedButNotTrained) {
  Write(R"([{"instruction":"a","output":"b"}, {"instruction":"c","out)");
  EXPECT_THAT(Codes(*CheckDataset(source_, nullptr, options_)), ElementsAre("1:broken_list"));
  EXPECT_THAT(std::string(Prepare().status().message()), HasSubstr("broken_list"));
}

TEST_F(DatasetTest, AnErrorOfProgressEndsTheWork) {
  Write(ManyRows(5000));
  options_.progress = [](absl::string_view phase, int64_t rows) {
    return phase == "tokenize" && rows > 0 ? absl::CancelledError("stop") : absl::OkStatus();
  };
  EXPECT_EQ(Prepare().status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(DatasetTest, AFileThatChangesBetweenThePassesIsRefused) {
  Write(ManyRows(10));
  bool changed = false;
  options_.progress = [&](absl::string_view phase, int64_t) {
    if (phase == "tokenize" && !changed) {
      changed = true;
      // Too late for the reader that is open: the next Open is the second pass.
      Write(ManyRows(12));
    }
    return absl::OkStatus();
  };
  const absl::Status status = Prepare().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

TEST(SetDataField, RefusesValuesOutOfRange) {
  JobSpec spec;
  EXPECT_TRUE(SetDataField(spec, "max_length", "16").ok());
  EXPECT_FALSE(SetDataField(spec, "max_length", "15").ok());
  EXPECT_FALSE(SetDataField(spec, "max_lenght", "16").ok());
}

TEST(ExampleDataSets, HaveNoProblems) {
  for (const char* name : {"examples/support-desk.jsonl", "examples/support-desk-zh.jsonl"}) {
    const absl::StatusOr<DatasetReport> report = CheckDataset({name, ""}, nullptr, {});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_GE(report->good_rows, 240);
    EXPECT_GT(report->validation_rows, 0);
    EXPECT_EQ(report->problems_total, 0) << DescribeProblem(report->problems[0]);
  }
}

}  // namespace
}  // namespace lathe
