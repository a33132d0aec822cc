#include "tests/testing/disk_journal.h"

#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <set>
#include <utility>

namespace lathe::testing {
namespace {

namespace fs = std::filesystem;

std::mutex mutex;

std::vector<DiskCall>& Journal() {
  static auto* const journal = new std::vector<DiskCall>;
  return *journal;
}

void Note(DiskCall call) {
  const std::lock_guard lock(mutex);
  Journal().push_back(std::move(call));
}

std::string PathOf(int fd) {
  std::array<char, 4096> buffer{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t size = readlink(link.c_str(), buffer.data(), buffer.size());
  return {buffer.data(), size < 0 ? 0 : static_cast<size_t>(size)};
}

// The files that a rename brought to `path`.
std::set<std::string> FilesAt(const fs::path& path) {
  if (!fs::is_directory(path)) return {path};
  std::set<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) files.insert(entry.path());
  }
  return files;
}

bool HasFsync(const std::vector<DiskCall>& journal, size_t begin, size_t end,
              const std::string& path) {
  for (size_t i = begin; i < end; ++i) {
    if (journal[i].name == "fsync" && journal[i].path == path) return true;
  }
  return false;
}

}  // namespace

std::vector<DiskCall> TakeDiskJournal() {
  const std::lock_guard lock(mutex);
  return std::exchange(Journal(), {});
}

std::string WhatPowerLossTakes(const std::vector<DiskCall>& journal) {
  for (size_t i = 0; i < journal.size(); ++i) {
    if (journal[i].name != "rename") continue;
    const auto& [name, to, from] = journal[i];
    for (const std::string& file : FilesAt(to)) {
      // Under the name that it had when it was written.
      const std::string before = from + file.substr(to.size());
      if (!HasFsync(journal, 0, i, before)) return "the bytes of " + file;
    }
    const std::string folder = fs::path(to).parent_path();
    if (!HasFsync(journal, i, journal.size(), folder)) return "the name " + to;
  }
  return "";
}

}  // namespace lathe::testing

// The program's own definitions come before the C library's.
extern "C" {

int fsync(int fd) {
  lathe::testing::Note({"fsync", lathe::testing::PathOf(fd), ""});
  static const auto real = reinterpret_cast<int (*)(int)>(dlsym(RTLD_NEXT, "fsync"));
  return real(fd);
}

int rename(const char* from, const char* to) noexcept {
  static const auto real =
      reinterpret_cast<int (*)(const char*, const char*)>(dlsym(RTLD_NEXT, "rename"));
  const int result = real(from, to);
  if (result == 0) lathe::testing::Note({"rename", to, from});
  return result;
}
}
