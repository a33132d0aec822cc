#include "common/config/environment.h"

#include <cstdlib>

namespace lathe {

std::optional<std::string> GetEnvironment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) return std::nullopt;
  return std::string(value);
}

std::filesystem::path DefaultDataDir() {
  if (const auto dir = GetEnvironment("LATHE_DATA_DIR")) return *dir;
  if (const auto base = GetEnvironment("XDG_DATA_HOME"))
    return std::filesystem::path(*base) / "lathe";
  return std::filesystem::path(GetEnvironment("HOME").value_or("/tmp")) / ".local/share/lathe";
}

std::filesystem::path DefaultCacheDir() {
  if (const auto dir = GetEnvironment("LATHE_CACHE")) return *dir;
  if (const auto base = GetEnvironment("XDG_CACHE_HOME")) {
    return std::filesystem::path(*base) / "lathe";
  }
  return std::filesystem::path(GetEnvironment("HOME").value_or("/tmp")) / ".cache/lathe";
}

std::filesystem::path ProgramFolder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

}  // namespace lathe
