#include "worker/trainer/checkpointer.h"

#include <gtest/gtest.h>

#include "common/base/file.h"
#include "common/base/sha256.h"

namespace lathe {
namespace {

class ContextTest : public ::testing::Test {
 protected:
  ContextTest() {
    for (const char* name : {"config.json", "model.safetensors", "train.shard"}) {
      EXPECT_TRUE(WriteFileAtomically(folder_.path() / name, name).ok());
    }
  }
  std::string SettingsOf(const JobSpec& spec) {
    return ContextOf(spec, folder_.path(), folder_.path())->at("settings");
  }

  TempFolder folder_ = *TempFolder::Make("context-test");
};

// A field that a newer build adds has its default in a job that an older one has made.
TEST_F(ContextTest, OnlySettingsThatAreNotTheDefaultAreInTheHash) {
  EXPECT_EQ(SettingsOf(JobSpec()), Sha256Hex(""));
  JobSpec spec;
  spec.name = "a-name";
  spec.epochs = 7;
  spec.lora.rank = 4;
  EXPECT_EQ(SettingsOf(spec), Sha256Hex("lora.rank=4\nepochs=7\n"));
}

}  // namespace
}  // namespace lathe
