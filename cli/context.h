#pragma once

#include <filesystem>
#include <string>

namespace lathe::cli {

// Where models named hf:OWNER/NAME come from.
struct HubSettings {
  std::string endpoint;         // --hub, else $HF_ENDPOINT, else the public hub.
  std::string token;            // $HF_TOKEN; empty: none.
  std::filesystem::path cache;  // What was fetched.
};

// The global flags.
struct GlobalOptions {
  std::string coordinator;           // HOST:PORT; empty: what `lathe up` wrote.
  std::filesystem::path token_file;  // Empty: what `lathe up` wrote.
  std::filesystem::path data_dir;    // Where `lathe up` keeps everything.
  bool json = false;
  HubSettings hub;
};

// What a command ends with. docs: cli contract.
inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;  // The job or check failed.
inline constexpr int kUsage = 2;
inline constexpr int kUnreachable = 3;  // The service cannot be reached.
inline constexpr int kRefused = 4;      // The service said no.

}  // namespace lathe::cli
