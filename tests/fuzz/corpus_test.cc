// Every committed input of every fuzz target, without a fuzzer: CI sees them in all presets.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "common/base/file.h"
#include "tests/fuzz/fuzz_targets.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

class CorpusTest : public testing::TestWithParam<FuzzTarget> {};

TEST_P(CorpusTest, EveryInputEndsInAResultOrAnError) {
  std::vector<fs::path> inputs;
  const fs::path corpus = fs::path("tests/fuzz/corpus") / std::string(GetParam().name);
  for (const auto& entry : fs::directory_iterator(corpus)) inputs.push_back(entry.path());
  std::sort(inputs.begin(), inputs.end());
  ASSERT_FALSE(inputs.empty());
  for (const fs::path& path : inputs) {
    SCOPED_TRACE(path.string());
    const auto input = ReadFile(path);
    ASSERT_TRUE(input.ok()) << input.status();
    GetParam().run(*input);
  }
  GetParam().run("");
}

INSTANTIATE_TEST_SUITE_P(Fuzz, CorpusTest, testing::ValuesIn(FuzzTargets()),
                         [](const auto& target) { return std::string(target.param.name); });

}  // namespace
}  // namespace lathe
