#include "worker/formats/safetensors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/mapped_file.h"
#include "common/base/sha256.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

std::string Length(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>((length >> (8 * i)) & 0xffU));
  return bytes;
}

std::string File(const std::string& header, const std::string& data) {
  return Length(header.size()) + header + data;
}

std::string Object(const std::string& a, const std::string& b = "") {
  return absl::StrCat("{", a, b.empty() ? "" : ",", b, "}");
}

// A member of the header.
std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}");
}

class SafetensorsTest : public testing::Test {
 protected:
  SafetensorsTest() : temp_(*TempFolder::Make("safetensors_test")) {}

  fs::path Path() const { return temp_.path() / "x.safetensors"; }
  absl::Status Read(const std::string& bytes) {
    // A new file each time, without fsync: there are thousands of them.
    fs::remove(Path());
    std::ofstream(Path(), std::ios::binary) << bytes;
    return SafetensorsFile::Open(Path()).status();
  }
  // Refused in one line that has `words`.
  void ExpectRefused(const std::string& bytes, const std::string& words) {
    const absl::Status status = Read(bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
    EXPECT_FALSE(absl::StrContains(status.message(), "\n")) << status;
  }

  TempFolder temp_;
};

TEST_F(SafetensorsTest, WhatIsWrittenIsReadBackAndStartsAtAMultipleOf64) {
  const std::string a(24, 'a');
  const std::string b(4, 'b');
  ASSERT_TRUE(WriteSafetensors(Path(), {{"z", Dtype::kF32, {2, 3}, a},
                                        {"empty", Dtype::kF32, {0, 5}, ""},
                                        {"scalar \"\\\xc3\xa9", Dtype::kI32, {}, b}})
                  .ok());
  const auto file = SafetensorsFile::Open(Path());
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 3U);
  EXPECT_EQ(file->tensors()[0].name, "z");
  EXPECT_EQ(file->Find("z")->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file->Find("z")->bytes, a);
  EXPECT_EQ(file->Find("scalar \"\\\xc3\xa9")->bytes, b);
  EXPECT_EQ(file->Find("no"), nullptr);
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file->Find("z")->bytes.data()) % 64, 0U);
}

TEST_F(SafetensorsTest, TheHashOfAFileIsKnownWithoutWritingIt) {
  const std::vector<TensorView> tensors = {{"b", Dtype::kF16, {3}, "123456"},
                                           {"a", Dtype::kF32, {1, 1}, "abcd"}};
  ASSERT_TRUE(WriteSafetensors(Path(), tensors).ok());
  EXPECT_EQ(*Sha256OfSafetensors(tensors), *Sha256OfFile(Path()));
  EXPECT_FALSE(Sha256OfSafetensors({{"a", Dtype::kF32, {2}, "abcd"}}).ok());
}

TEST_F(SafetensorsTest, ReadsAFileOfTheReferenceWriter) {
  const auto file = SafetensorsFile::Open(LATHE_TEST_DATA "/tiny-llama/model.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors().size(), 20U);
  EXPECT_EQ(file->Find("model.embed_tokens.weight")->shape, (std::vector<int64_t>{384, 32}));
}

TEST_F(SafetensorsTest, EveryCutOfAFileIsRefused) {
  const std::string whole = File(Object(Entry("a", "F32", "[2]", "[0,8]")), "12345678");
  ASSERT_TRUE(Read(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(Read(whole.substr(0, size)).code(), absl::StatusCode::kInvalidArgument) << size;
  }
}

TEST_F(SafetensorsTest, NoChangedByteCrashesTheReader) {
  const std::string whole = File(Object(Entry("a", "F32", "[2]", "[0,8]")), "12345678");
  for (size_t i = 0; i < whole.size() - 8; ++i) {
    for (const unsigned flip : {0x01U, 0x10U, 0x80U, 0xffU}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(static_cast<unsigned char>(changed[i]) ^ flip);
      const absl::Status status = Read(changed);
      EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kInvalidArgument) << i;
    }
  }
}

TEST_F(SafetensorsTest, RefusesAHeaderLongerThanTheFileOrTheBound) {
  ExpectRefused(Length(100) + "{}", "header of 100 bytes");
  ExpectRefused(Length(~uint64_t{0}) + "{}", "header of 18446744073709551615 bytes");
  ExpectRefused(Length((16 << 20) + 1) + std::string((16 << 20) + 1, ' '), "16777216");
}

TEST_F(SafetensorsTest, RefusesWhatIsNoJsonObjectInUtf8) {
  ExpectRefused(File("[]", ""), "must be a JSON object");
  ExpectRefused(File("{\"a\"", ""), "not valid JSON");
  ExpectRefused(File("{\"\xff\":1}", ""), "UTF-8");
  ExpectRefused(File(std::string(5000, '['), ""), "nested deeper");
}

TEST_F(SafetensorsTest, RefusesHolesOverlapsAndUncoveredBytes) {
  const std::string a = Entry("a", "U8", "[4]", "[0,4]");
  ExpectRefused(File(Object(a, Entry("b", "U8", "[2]", "[3,5]")), "12345"), "overlaps");
  ExpectRefused(File(Object(a, Entry("b", "U8", "[2]", "[5,7]")), "1234567"), "holes");
  ExpectRefused(File(Object(a), "12345"), "cover 4");
  ExpectRefused(File(Object(a, Entry("b", "U8", "[4]", "[0,4]")), "1234"), "overlaps");
}

TEST_F(SafetensorsTest, RefusesDuplicateNamesAndKeys) {
  const std::string a = Entry("a", "U8", "[4]", "[0,4]");
  ExpectRefused(File(Object(a, a), "1234"), "\"a\" twice");
  ExpectRefused(
      File(R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "1234"),
      "\"dtype\" twice");
}

TEST_F(SafetensorsTest, RefusesSizesThatDoNotFitTheBytes) {
  const auto file = [](const std::string& shape, const std::string& offsets) {
    return File(Object(Entry("a", "F32", shape, offsets)), "1234");
  };
  ExpectRefused(file("[2]", "[0,4]"), "has 4 bytes");
  ExpectRefused(file("[2]", "[4,0]"), "data_offsets");
  ExpectRefused(file("[2]", "[0,18446744073709551615]"), "the file has 4 bytes");
  ExpectRefused(file("[2]", "[0,18446744073709551620]"), "data_offsets");
  ExpectRefused(file("[4611686018427387904,4]", "[0,0]"), "more than 64 bits");
  ExpectRefused(file("[-1]", "[0,4]"), "size -1");
  ExpectRefused(file("[1.5]", "[0,4]"), "size 1.5");
  ExpectRefused(file("[1,1,1,1,1,1,1,1,1]", "[0,4]"), "at most 8");
}

TEST_F(SafetensorsTest, RefusesAnUnknownTypeByName) {
  ExpectRefused(File(Object(Entry("a", "F8_E4M3", "[4]", "[0,4]")), "1234"),
                "\"F8_E4M3\"; allowed are F64");
  ExpectRefused(File(R"({"__metadata__":{"a":1}})", ""), "must be a string");
}

TEST_F(SafetensorsTest, AllowsExactly65536Tensors) {
  std::string header = "{";
  for (int i = 0; i < 65536; ++i) {
    if (i > 0) header += ",";
    header += Entry(absl::StrCat(i), "U8", "[0]", "[0,0]");
  }
  EXPECT_TRUE(Read(File(header + "}", "")).ok());
  ExpectRefused(File(header + "," + Entry("x", "U8", "[0]", "[0,0]") + "}", ""), "65537 tensors");
}

TEST_F(SafetensorsTest, NoFileIsNotFoundAndAFolderIsRefused) {
  EXPECT_EQ(SafetensorsFile::Open(Path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::Open(temp_.path()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SafetensorsTest, AnUnfinishedWriterLeavesTheOldFileAndNothingElse) {
  ASSERT_TRUE(WriteFileAtomically(Path(), "old").ok());
  {
    auto writer = SafetensorsWriter::Create(Path(), {{"a", Dtype::kU8, {4}}});
    ASSERT_TRUE(writer.ok());
    EXPECT_TRUE(writer->Append("12").ok());
    EXPECT_EQ(writer->Finish().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(writer->Append("345").code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(*ReadFile(Path()), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(temp_.path()), fs::directory_iterator()), 1);
}

TEST_F(SafetensorsTest, TheWriterRefusesWhatTheReaderWould) {
  EXPECT_FALSE(WriteSafetensors(Path(), {{"a", Dtype::kU8, {4}, "123"}}).ok());
  EXPECT_FALSE(WriteSafetensors(Path(), {{"a", Dtype::kU8, {-1}, ""}}).ok());
  EXPECT_FALSE(WriteSafetensors(Path(), {{"\xff", Dtype::kU8, {1}, "1"}}).ok());
  EXPECT_FALSE(
      WriteSafetensors(Path(), {{"a", Dtype::kU8, {1}, "1"}, {"a", Dtype::kU8, {1}, "1"}}).ok());
  EXPECT_FALSE(fs::exists(Path()));
}

// Pages of the range that are in this process's memory: bit 63 of their entry in the page map.
int ResidentPages(absl::string_view mapped) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(mapped.data()) / page;
  const UniqueFd map(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  int resident = 0;
  for (size_t i = 0; i < mapped.size() / page; ++i) {
    uint64_t entry = 0;
    const auto at = static_cast<off_t>((first + i) * sizeof(entry));
    EXPECT_EQ(pread(map.get(), &entry, sizeof(entry), at), ssize_t{sizeof(entry)});
    resident += static_cast<int>(entry >> 63U);
  }
  return resident;
}

TEST(MappedFileTest, ReleasedPagesAreReadAgain) {
  const auto temp = TempFolder::Make("mapped");
  const std::string bytes(size_t{1} << 16, 'x');
  ASSERT_TRUE(WriteFileAtomically(temp->path() / "file", bytes).ok());
  const auto file = MappedFile::Open(temp->path() / "file");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->bytes(), bytes);
  EXPECT_GT(ResidentPages(file->bytes()), 0);
  ReleasePages(file->bytes().substr(1));  // The first page is kept: it is not released as a whole.
  EXPECT_EQ(ResidentPages(file->bytes()), 1);
  EXPECT_EQ(file->bytes(), bytes);
}

}  // namespace
}  // namespace lathe
