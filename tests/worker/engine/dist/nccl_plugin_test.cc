#include "worker/engine/dist/nccl_plugin.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "absl/strings/match.h"

namespace lathe {
namespace {

void ExpectRefused(const std::string& path, absl::StatusCode code, const std::string& words) {
  const absl::Status status = OpenNcclPlugin(path).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
  EXPECT_FALSE(absl::StrContains(status.message(), "\n")) << status;
}

TEST(NcclPluginTest, SaysWhatIsMissingOrWrong) {
  ExpectRefused("/nowhere/liblathe_nccl.so", absl::StatusCode::kNotFound, "scripts/test --cuda");
  ExpectRefused("CMakeLists.txt", absl::StatusCode::kFailedPrecondition, "invalid ELF header");
  // A library, but not ours.
  Dl_info libc;
  ASSERT_NE(dladdr(reinterpret_cast<void*>(&std::abort), &libc), 0);
  ExpectRefused(libc.dli_fname, absl::StatusCode::kFailedPrecondition,
                "undefined symbol: LatheNcclPlugin");
}

TEST(NcclPluginTest, LiesBesideTheProgram) {
  EXPECT_EQ(DefaultNcclPluginPath().filename(), "liblathe_nccl.so");
  EXPECT_TRUE(std::filesystem::is_directory(DefaultNcclPluginPath().parent_path()));
}

}  // namespace
}  // namespace lathe
