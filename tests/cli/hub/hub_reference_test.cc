#include "cli/hub/hub_reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lathe::cli {
namespace {

TEST(HubReferenceTest, OwnerAndNameAreEnough) {
  const auto reference = ParseHubReference("hf:Qwen/Qwen2.5-7B");
  ASSERT_TRUE(reference.ok()) << reference.status();
  EXPECT_EQ(reference->repository(), "Qwen/Qwen2.5-7B");
  EXPECT_EQ(reference->revision, "main");
  EXPECT_EQ(reference->file, "");
}

TEST(HubReferenceTest, RevisionAndFileFollow) {
  const auto reference = ParseHubReference("hf:a/b@refs/pr/1:m.Q8_0.gguf");
  ASSERT_TRUE(reference.ok()) << reference.status();
  EXPECT_EQ(reference->name, "b");
  EXPECT_EQ(reference->revision, "refs/pr/1");
  EXPECT_EQ(reference->file, "m.Q8_0.gguf");
}

TEST(HubReferenceTest, WhatCouldBeAPathOrAUrlIsRefused) {
  for (const char* text : {"a/b", "hf:", "hf:a", "hf:a/", "hf:/b", "hf:a/b/c", "hf:../b", "hf:a/..",
                           "hf:a/b@", "hf:a/b@../x", "hf:a/b:", "hf:a/b:x.bin", "hf:a/b:d/x.gguf",
                           "hf:a/b?x", "hf:a b/c", "hf:.a/b", "hf:-a/b", "hf:a/b@x y"}) {
    const auto reference = ParseHubReference(text);
    EXPECT_EQ(reference.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(reference.status().message(), testing::HasSubstr("must be hf:OWNER/NAME"));
  }
  EXPECT_FALSE(ParseHubReference("hf:" + std::string(300, 'a') + "/b").ok());
}

}  // namespace
}  // namespace lathe::cli
