#pragma once

#include <filesystem>
#include <string>

namespace lathe::cli {

// The global flags.
struct GlobalOptions {
  std::string coordinator;           // HOST:PORT; empty: what `lathe up` wrote.
  std::filesystem::path token_file;  // Empty: what `lathe up` wrote.
  std::filesystem::path data_dir;    // Where `lathe up` keeps everything.
  bool json = false;
};

// What a command ends with. docs: cli contract.
inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;  // The job or check failed.
inline constexpr int kUsage = 2;
inline constexpr int kUnreachable = 3;  // The service cannot be reached.
inline constexpr int kRefused = 4;      // The service said no.

}  // namespace lathe::cli
