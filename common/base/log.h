#pragma once

#include "absl/strings/string_view.h"

namespace lathe {

enum class LogLevel { kInfo, kWarning, kError };

// One line on standard error: "2026-01-31T12:00:00.123Z I message". Thread-safe; line breaks in
// `message` become spaces. Secrets must never get here.
void Log(LogLevel level, absl::string_view message);
inline void LogInfo(absl::string_view message) { Log(LogLevel::kInfo, message); }
inline void LogWarning(absl::string_view message) { Log(LogLevel::kWarning, message); }
inline void LogError(absl::string_view message) { Log(LogLevel::kError, message); }

}  // namespace lathe
