#include "worker/data/shard.h"

#include <fstream>

#include "common/base/file.h"
#include "common/base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lathe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const char* const kTemplate = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct Row {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;
  int64_t number = 0;
  TokenRow view() const { return TokenRow{ids, trained, number}; }
};

class ShardTest : public ::testing::Test {
 protected:
  ShardTest() : folder_(*TempFolder::Make("shard")) {}
  std::filesystem::path path() const { return folder_.path() / "a.shard"; }

  void WriteTwoRows() const {
    ShardWriter writer(kTemplate);
    ASSERT_TRUE(writer.Add(Row{{5, 6, 7}, {0, 1, 1}, 3}.view()).ok());
    ASSERT_TRUE(writer.Add(Row{{8, 49151}, {0, 1}, 9}.view()).ok());
    ASSERT_TRUE(writer.Write(path()).ok());
  }

  void WriteBytes(const std::string& bytes) const {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << bytes;
  }

  TempFolder folder_;
};

TEST_F(ShardTest, RowsComeBackAsWritten) {
  WriteTwoRows();
  absl::StatusOr<Shard> shard = Shard::Open(path());
  ASSERT_TRUE(shard.ok()) << shard.status();
  ASSERT_EQ(shard->num_rows(), 2U);
  EXPECT_EQ(shard->template_sha256(), kTemplate);
  EXPECT_THAT(shard->row(0).ids, ElementsAre(5, 6, 7));
  EXPECT_THAT(shard->row(0).trained, ElementsAre(0, 1, 1));
  EXPECT_EQ(shard->row(0).row, 3);
  EXPECT_THAT(shard->row(1).ids, ElementsAre(8, 49151));
  EXPECT_EQ(shard->row(1).row, 9);
}

TEST_F(ShardTest, AnEmptyShardIsAShard) {
  ASSERT_TRUE(ShardWriter(kTemplate).Write(path()).ok());
  absl::StatusOr<Shard> shard = Shard::Open(path());
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_EQ(shard->num_rows(), 0U);
}

TEST_F(ShardTest, StaysValidAfterAMove) {
  WriteTwoRows();
  absl::StatusOr<Shard> opened = Shard::Open(path());
  ASSERT_TRUE(opened.ok());
  const Shard shard = *std::move(opened);
  EXPECT_THAT(shard.row(1).ids, ElementsAre(8, 49151));
}

TEST_F(ShardTest, EveryCutIsDataLoss) {
  WriteTwoRows();
  const std::string bytes = *ReadFile(path());
  for (size_t size = 0; size < bytes.size(); ++size) {
    WriteBytes(bytes.substr(0, size));
    EXPECT_EQ(Shard::Open(path()).status().code(), absl::StatusCode::kDataLoss) << size;
  }
}

TEST_F(ShardTest, EveryFlippedByteIsDataLoss) {
  WriteTwoRows();
  const std::string bytes = *ReadFile(path());
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x40);
    WriteBytes(changed);
    EXPECT_EQ(Shard::Open(path()).status().code(), absl::StatusCode::kDataLoss) << i;
  }
}

TEST_F(ShardTest, BytesAfterTheEndAreDataLoss) {
  WriteTwoRows();
  WriteBytes(*ReadFile(path()) + "x");
  EXPECT_EQ(Shard::Open(path()).status().code(), absl::StatusCode::kDataLoss);
}

// A writer that is not ours can put a right sha256 under wrong content.
TEST_F(ShardTest, WrongContentUnderARightHashIsDataLoss) {
  WriteTwoRows();
  const std::string bytes = *ReadFile(path());
  const std::string body = bytes.substr(0, bytes.size() - 64);
  const struct {
    size_t at;
    char value;
    const char* what;
  } cases[] = {
      {8, '\x7f', "rows"},       {15, '\x7f', "rows"},    {23, '\x7f', "tokens"},
      {24, 'Z', "template"},     {88, '\x01', "offsets"}, {96, '\x7f', "offset"},
      {96, '\0', "offset"},      {103, '\x7f', "offset"}, {104, '\x04', "offsets"},
      {131, '\x80', "negative"}, {148, '\x01', "first"},  {149, '\x02', "mask"},
  };
  for (const auto& c : cases) {
    std::string changed = body;
    changed[c.at] = c.value;
    WriteBytes(changed + Sha256Hex(changed));
    const absl::Status status = Shard::Open(path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.at;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.what)) << c.at;
  }
}

TEST_F(ShardTest, AMissingFileIsNotFoundAndAFolderIsRefused) {
  EXPECT_EQ(Shard::Open(path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Shard::Open(folder_.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ShardTest, TheWriterRefusesRowsThatAReaderWouldRefuse) {
  ShardWriter writer(kTemplate);
  const auto code = [&](const Row& row) { return writer.Add(row.view()).code(); };
  EXPECT_EQ(code({{}, {}, 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{1, 2}, {0}, 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{1, -2}, {0, 1}, 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{1, 2}, {1, 1}, 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{1, 2}, {0, 2}, 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(writer.num_rows(), 0U);
  EXPECT_EQ(ShardWriter("abc").Write(path()).code(), absl::StatusCode::kInvalidArgument);
}

TEST(RowSha256, IsOverIdsThenMask) {
  const std::vector<int32_t> ids = {1, 258};
  const std::vector<uint8_t> trained = {0, 1};
  const std::string bytes("\x01\0\0\0\x02\x01\0\0\0\x01", 10);
  EXPECT_EQ(RowSha256(TokenRow{ids, trained, 7}), Sha256Hex(bytes));
}

}  // namespace
}  // namespace lathe
