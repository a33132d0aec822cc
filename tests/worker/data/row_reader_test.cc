#include "worker/data/row_reader.h"

#include <sys/stat.h>

#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lathe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RowReaderTest : public ::testing::Test {
 protected:
  RowReaderTest() : folder_(*TempFolder::Make("rows")), path_(folder_.path() / "a") {}

  absl::StatusOr<std::vector<RawRow>> Read(const std::string& bytes,
                                           absl::string_view format = "") {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
    absl::StatusOr<RowReader> reader = RowReader::Open(path_, format, limits_);
    if (!reader.ok()) return reader.status();
    std::vector<RawRow> rows;
    RawRow row;
    while (true) {
      const absl::StatusOr<bool> more = reader->Next(row);
      if (!more.ok()) return more.status();
      if (!*more) return rows;
      rows.push_back(row);
    }
  }

  // "row@line:text", or the problem's name instead of the text.
  std::vector<std::string> Describe(const std::string& bytes, absl::string_view format = "") {
    const absl::StatusOr<std::vector<RawRow>> rows = Read(bytes, format);
    if (!rows.ok()) return {rows.status().ToString()};
    std::vector<std::string> out;
    for (const RawRow& row : *rows) {
      const std::string text = row.fault ? std::string(ProblemName(row.fault->code)) : row.text;
      out.push_back(absl::StrCat(row.row, "@", row.line, ":", text));
    }
    return out;
  }

  TempFolder folder_;
  std::filesystem::path path_;
  RowLimits limits_;
};

TEST_F(RowReaderTest, LinesOfJsonlAreRowsAndBlankLinesAreNot) {
  EXPECT_THAT(Describe("{\"a\":1}\n\n \t\r\n{\"b\":2}\r\n{\"c\":3}"),
              ElementsAre("0@1:{\"a\":1}", "1@4:{\"b\":2}\r", "2@5:{\"c\":3}"));
}

TEST_F(RowReaderTest, LineNumbersCountBlankLinesBeforeTheFirstRow) {
  EXPECT_THAT(Describe("\n\n  {}\n{}"), ElementsAre("0@3:{}", "1@4:{}"));
}

TEST_F(RowReaderTest, ElementsOfAListAreRows) {
  EXPECT_THAT(Describe(R"( [ {"a":[1,2]} , {"b":"],\"},["},{"c":{}}
 ] )"),
              ElementsAre("0@1:{\"a\":[1,2]} ", "1@2:{\"b\":\"],\\\"},[\"}", "2@3:{\"c\":{}}\n "));
}

TEST_F(RowReaderTest, AByteOrderMarkIsSkipped) {
  EXPECT_THAT(Describe("\xEF\xBB\xBF[{}]"), ElementsAre("0@1:{}"));
  EXPECT_THAT(Describe("\xEF\xBB\xBF{}\n"), ElementsAre("0@1:{}"));
}

TEST_F(RowReaderTest, FilesWithoutRowsGiveNone) {
  for (const char* text : {"", "\n \n", "[]", "[ \n ]", "\xEF\xBB\xBF"})
    EXPECT_THAT(Describe(text), IsEmpty()) << text;
}

TEST_F(RowReaderTest, AListThatBreaksOffEndsWithABrokenRow) {
  EXPECT_THAT(Describe("[{\"a\":1},{\"b\":"), ElementsAre("0@1:{\"a\":1}", "1@2:broken_list"));
  EXPECT_THAT(Describe("[{\"a\":1}"), ElementsAre("0@1:broken_list"));
  EXPECT_THAT(Describe("["), ElementsAre("0@1:broken_list"));
  EXPECT_THAT(Describe("[{\"a\":\"x]"), ElementsAre("0@1:broken_list"));
}

TEST_F(RowReaderTest, TextAfterTheListIsABrokenList) {
  EXPECT_THAT(Describe("[{},{}]\n[{}]"), ElementsAre("0@1:{}", "1@2:broken_list"));
}

TEST_F(RowReaderTest, AnEmptyElementIsARowOfItsOwn) {
  EXPECT_THAT(Describe("[{},,{},]"), ElementsAre("0@1:{}", "1@2:", "2@3:{}", "3@4:"));
}

TEST_F(RowReaderTest, ARowOverTheLimitIsNamedAndTheNextOneIsRead) {
  limits_.max_row_bytes = 10;
  const std::string large(11, ' ');
  EXPECT_THAT(Describe("{\"a\":1}\n{" + large + "}\n{}"),
              ElementsAre("0@1:{\"a\":1}", "1@2:row_too_large", "2@3:{}"));
  EXPECT_THAT(Describe("[{" + large + "},{}]"), ElementsAre("0@1:row_too_large", "1@2:{}"));
}

TEST_F(RowReaderTest, RowsCrossTheReadBuffer) {
  const std::string text(300'000, 'x');
  EXPECT_THAT(Describe("[\"" + text + "\",1]"), ElementsAre("0@1:\"" + text + "\"", "1@2:1"));
  EXPECT_THAT(Describe(text + "\n" + text, "jsonl"), ElementsAre("0@1:" + text, "1@2:" + text));
}

TEST_F(RowReaderTest, TheFormatCanBeNamed) {
  EXPECT_THAT(Describe("[1]\n[2]", "jsonl"), ElementsAre("0@1:[1]", "1@2:[2]"));
  EXPECT_THAT(Describe("[{}]", "json"), ElementsAre("0@1:{}"));
  EXPECT_THAT(Describe("{}", "json"), ElementsAre(HasSubstr("begins with '{'; must be a list")));
  EXPECT_THAT(Describe("{}", "csv"), ElementsAre(HasSubstr("'csv'; must be json or jsonl")));
}

TEST_F(RowReaderTest, OtherEncodingsAndArchivesAreNamed) {
  const struct {
    const char* head;
    const char* what;
  } cases[] = {{"\xFF\xFE{", "UTF-16"},
               {"\x1F\x8B\x08", "gzip"},
               {"PK\x03\x04", "zip"},
               {"PAR1", "Parquet"}};
  for (const auto& c : cases) {
    const absl::Status status = Read(c.head).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.what));
  }
}

TEST_F(RowReaderTest, FilesOverTheLimitAreRefused) {
  limits_.max_file_bytes = 10;
  EXPECT_THAT(std::string(Read("{\"a\": \"0123456789\"}").status().message()),
              HasSubstr("at most 10 are allowed"));
}

TEST_F(RowReaderTest, MoreRowsThanAllowedAreRefused) {
  limits_.max_rows = 2;
  EXPECT_TRUE(Read("{}\n{}\n").ok());
  EXPECT_EQ(Read("{}\n{}\n{}").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RowReaderTest, OnlyRegularFilesAreRead) {
  EXPECT_EQ(RowReader::Open(folder_.path(), "").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RowReader::Open(folder_.path() / "none", "").status().code(),
            absl::StatusCode::kNotFound);
  const std::filesystem::path pipe = folder_.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(RowReader::Open(pipe, "").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lathe
