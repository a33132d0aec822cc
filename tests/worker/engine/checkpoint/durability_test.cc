#include <gtest/gtest.h>

#include "common/base/file.h"
#include "common/base/pending_file.h"
#include "common/base/sha256.h"
#include "tests/testing/disk_journal.h"
#include "worker/engine/checkpoint/checkpoint.h"

// What was said to be on disk is there after a loss of power.

namespace lathe {
namespace {

using testing::TakeDiskJournal;
using testing::WhatPowerLossTakes;

class DurabilityTest : public ::testing::Test {
 protected:
  DurabilityTest() : temp_(*TempFolder::Make("durability-test")) { TakeDiskJournal(); }

  TempFolder temp_;
};

TEST_F(DurabilityTest, APublishedCheckpointOutlivesALossOfPower) {
  const std::string bytes(40, 'x');
  auto pending = PendingCheckpoint::Write(temp_.path(), {{"values", Dtype::kF32, {10}, bytes}});
  ASSERT_TRUE(pending.ok()) << pending.status();
  CheckpointManifest manifest;
  manifest.step = 5;
  const auto dir = pending->Publish(manifest);
  ASSERT_TRUE(dir.ok()) << dir.status();
  const auto journal = TakeDiskJournal();
  EXPECT_EQ(WhatPowerLossTakes(journal), "");
  EXPECT_EQ(journal.back().path, temp_.path().string());
}

TEST_F(DurabilityTest, AFileWrittenAtomicallyOutlivesALossOfPower) {
  ASSERT_TRUE(WriteFileAtomically(temp_.path() / "a", "bytes").ok());
  EXPECT_EQ(WhatPowerLossTakes(TakeDiskJournal()), "");
}

TEST_F(DurabilityTest, AFileThatGrewOutlivesALossOfPower) {
  auto file = PendingFile::Create(temp_.path() / "a");
  ASSERT_TRUE(file.ok() && file->Append("bytes").ok() && file->Publish().ok());
  EXPECT_EQ(WhatPowerLossTakes(TakeDiskJournal()), "");
}

TEST(WhatPowerLossTakesTest, NamesWhatWasNotSynced) {
  const auto temp = *TempFolder::Make("durability-test");
  const std::string folder = temp.path();
  const std::string from = folder + "/.a.tmp";
  const std::string to = folder + "/a";
  ASSERT_TRUE(WriteFileAtomically(to, "bytes").ok());
  EXPECT_EQ(WhatPowerLossTakes({{"rename", to, from}, {"fsync", folder, ""}}),
            "the bytes of " + to);
  EXPECT_EQ(WhatPowerLossTakes({{"fsync", from, ""}, {"rename", to, from}}), "the name " + to);
  EXPECT_EQ(WhatPowerLossTakes({{"fsync", from, ""}, {"fsync", folder, ""}, {"rename", to, from}}),
            "the name " + to);
}

}  // namespace
}  // namespace lathe
