#include "tests/fuzz/fuzz_input.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace lathe {
namespace {

TempFolder MakeFolderOrDie() {
  auto folder = TempFolder::Make("lathe-fuzz");
  Require(folder.ok(), folder.status().message());
  return *std::move(folder);
}

}  // namespace

void Require(bool holds, absl::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "broken property: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

void RequireGoodError(const absl::Status& status) {
  constexpr size_t kMaxBytes = 4096;
  if (status.ok()) return;
  const absl::string_view text = status.message();
  Require(!text.empty() && text.size() <= kMaxBytes,
          absl::StrCat("an error has ", text.size(), " bytes: ", text.substr(0, 200)));
  Require(std::none_of(text.begin(), text.end(),
                       [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }),
          absl::StrCat("an error has control characters: ", text));
}

InputFile::InputFile(absl::string_view bytes) : fd_(memfd_create("input", MFD_CLOEXEC)) {
  Require(fd_.valid(), "memfd_create");
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = write(fd_.get(), bytes.data() + done, bytes.size() - done);
    Require(count > 0, "write");
    done += static_cast<size_t>(count);
  }
}

std::filesystem::path InputFile::path() const { return absl::StrCat("/proc/self/fd/", fd_.get()); }

InputFolder::InputFolder() : folder_(MakeFolderOrDie()) {}

void InputFolder::Write(absl::string_view name, absl::string_view bytes) const {
  std::ofstream out(path() / std::string(name), std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  Require(out.good(), "write");
}

std::vector<absl::string_view> SplitParts(absl::string_view input, size_t count) {
  std::vector<absl::string_view> parts =
      absl::StrSplit(input, absl::MaxSplits('\0', static_cast<int>(count) - 1));
  parts.resize(std::max(parts.size(), count));
  return parts;
}

}  // namespace lathe
