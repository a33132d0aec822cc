#include "common/base/mapped_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "common/base/file.h"

namespace lathe {
namespace {

class MappedFileTest : public testing::Test {
 protected:
  MappedFileTest() : folder_(*TempFolder::Make("mapped_file_test")) {
    std::ofstream(Path(), std::ios::binary) << std::string(kBytes, 'x');
  }
  std::filesystem::path Path() const { return folder_.path() / "big.safetensors"; }

  static constexpr size_t kBytes = size_t{1} << 20;
  TempFolder folder_;
};

TEST_F(MappedFileTest, HoldsTheBytesOfTheFile) {
  const auto file = MappedFile::Open(Path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->bytes(), std::string(kBytes, 'x'));
}

TEST_F(MappedFileTest, RefusesWhatIsNoRegularFile) {
  EXPECT_EQ(MappedFile::Open(folder_.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(folder_.path() / "no").status().code(), absl::StatusCode::kNotFound);
}

using MappedFileDeathTest = MappedFileTest;

TEST_F(MappedFileDeathTest, AFileThatShrinksWhileMappedIsNamedInOneLine) {
  const auto read_beyond_the_end = [&] {
    ExplainLostMappings();
    const auto other = MappedFile::Open("/proc/self/exe");
    const auto file = MappedFile::Open(Path());
    if (!other.ok() || !file.ok() || truncate(Path().c_str(), 4096) != 0) _exit(1);
    const volatile char last = file->bytes().back();
    _exit(last == 'x' ? 2 : 3);
  };
  EXPECT_EXIT(read_beyond_the_end(), testing::KilledBySignal(SIGBUS),
              "common_base_test: .*/big.safetensors: became shorter or cannot be read any more; "
              "it must stay as it is while it is used\n$");
}

}  // namespace
}  // namespace lathe
