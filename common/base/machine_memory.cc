#include "common/base/machine_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace lathe {
namespace {

// The number behind `key` in a file of "key value" lines; -1 if there is none.
int64_t FindNumber(const char* path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    int64_t value = -1;
    if (word == key && file >> value) return value;
  }
  return -1;
}

int64_t ReadLimit(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  // cgroup v2 says "max", v1 a huge number.
  return file >> value && value > 0 ? value : std::numeric_limits<int64_t>::max();
}

}  // namespace

int64_t MachineMemoryBytes() {
  const int64_t total_kib = FindNumber("/proc/meminfo", "MemTotal:");
  if (total_kib <= 0) return 0;
  return std::min({total_kib * 1024, ReadLimit("/sys/fs/cgroup/memory.max"),
                   ReadLimit("/sys/fs/cgroup/memory/memory.limit_in_bytes")});
}

int64_t NumOomKills() { return std::max<int64_t>(0, FindNumber("/proc/vmstat", "oom_kill")); }

}  // namespace lathe
