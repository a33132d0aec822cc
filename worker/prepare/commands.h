#pragma once

#include "CLI/CLI.hpp"

namespace lathe {

// The commands that people and scripts use without a service: check, preview, prepare, import.
// Adds them to `app`; the one that was parsed puts its exit code (0 or 1; errors are one line on
// standard error) into `exit_code`, which must outlive `app`.
void AddCommands(CLI::App& app, int& exit_code);

}  // namespace lathe
