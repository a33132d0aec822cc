#include "cli/hub/hub_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lathe::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

const std::string kSha1(40, 'a');
const std::string kSha256(64, 'b');

std::vector<HubFile> Listed(const std::vector<std::string>& names) {
  std::vector<HubFile> files;
  for (const std::string& name : names) {
    files.push_back({.path = name, .size = 1, .sha256 = "", .git_sha1 = kSha1});
  }
  return files;
}

std::vector<std::string> Names(const absl::StatusOr<std::vector<HubFile>>& files) {
  EXPECT_TRUE(files.ok()) << files.status();
  std::vector<std::string> names;
  if (files.ok()) {
    for (const HubFile& file : *files) names.push_back(file.path);
  }
  return names;
}

TEST(HubFilesTest, LargeFilesHaveASha256AndSmallOnesGitsHash) {
  const auto files = FilesOf(R"([
    {"type": "file", "path": "config.json", "size": 7, "oid": ")" +
                             kSha1 + R"("},
    {"type": "directory", "path": "onnx", "oid": "x"},
    {"type": "file", "path": "sub/model.safetensors", "size": 7, "oid": "x"},
    {"type": "file", "path": "model.safetensors", "size": 9, "oid": "x",
     "lfs": {"oid": ")" + kSha256 +
                             R"(", "size": 9, "pointerSize": 130}}])");
  ASSERT_EQ(Names(files), (std::vector<std::string>{"config.json", "model.safetensors"}));
  EXPECT_EQ((*files)[0].git_sha1, kSha1);
  EXPECT_EQ((*files)[1].sha256, kSha256);
  EXPECT_EQ((*files)[1].git_sha1, "");
  EXPECT_EQ((*files)[1].size, 9);
}

TEST(HubFilesTest, AnAnswerOfAnotherFormIsDataLoss) {
  for (const char* text : {"", "{}", "<html>", R"([{"type": "file", "path": "a.json", "size": 1}])",
                           R"([{"type": "file", "path": "a.json", "size": -1, "oid": "zz"}])"}) {
    EXPECT_EQ(FilesOf(text).status().code(), absl::StatusCode::kDataLoss) << text;
  }
  EXPECT_EQ(CommitOf(R"({"sha": "main"})").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CommitOf("[]").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(*CommitOf(R"({"sha": ")" + kSha1 + R"("})"), kSha1);
}

TEST(HubFilesTest, OneSafetensorsFileWinsOverShardsAndPickles) {
  EXPECT_THAT(Names(ModelFilesOf({}, Listed({"README.md", "config.json", "model.safetensors",
                                             "model-00001-of-00001.safetensors", "tokenizer.json",
                                             "consolidated.safetensors", "pytorch_model.bin"}))),
              UnorderedElementsAre("config.json", "model.safetensors", "tokenizer.json"));
}

TEST(HubFilesTest, ShardsComeWithTheirIndex) {
  EXPECT_THAT(
      Names(ModelFilesOf(
          {}, Listed({"config.json", "model-00001-of-00002.safetensors",
                      "model-00002-of-00002.safetensors", "model.safetensors.index.json"}))),
      UnorderedElementsAre("config.json", "model-00001-of-00002.safetensors",
                           "model-00002-of-00002.safetensors", "model.safetensors.index.json"));
  EXPECT_THAT(ModelFilesOf({}, Listed({"config.json", "model-00001-of-00002.safetensors"}))
                  .status()
                  .message(),
              HasSubstr("no weights that Lathe reads"));
}

TEST(HubFilesTest, OneGgufFileIsTheModelAndSeveralMustBeNamed) {
  HubReference reference{.owner = "o", .name = "n", .revision = "main", .file = ""};
  EXPECT_THAT(Names(ModelFilesOf(reference, Listed({"config.json", "m.gguf"}))),
              ElementsAre("m.gguf"));
  const auto several = ModelFilesOf(reference, Listed({"m.Q4_1.gguf", "m.Q8_0.gguf"}));
  EXPECT_THAT(several.status().message(),
              HasSubstr("2 GGUF files (m.Q4_1.gguf, m.Q8_0.gguf); name one: hf:o/n:m.Q4_1.gguf"));
  reference.file = "m.Q8_0.gguf";
  EXPECT_THAT(Names(ModelFilesOf(reference, Listed({"m.Q4_1.gguf", "m.Q8_0.gguf"}))),
              ElementsAre("m.Q8_0.gguf"));
  reference.file = "x.gguf";
  EXPECT_EQ(ModelFilesOf(reference, Listed({"m.gguf"})).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(HubFilesTest, PickledWeightsAloneAreRefused) {
  EXPECT_THAT(ModelFilesOf({}, Listed({"config.json", "pytorch_model.bin"})).status().message(),
              HasSubstr("pickled files are never opened"));
}

}  // namespace
}  // namespace lathe::cli
