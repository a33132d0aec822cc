#pragma once

#include <filesystem>
#include <optional>
#include <string>

// The only reader of environment variables.

namespace lathe {

std::optional<std::string> GetEnvironment(const char* name);

// $LATHE_DATA_DIR, else $XDG_DATA_HOME/lathe, else ~/.local/share/lathe.
std::filesystem::path DefaultDataDir();

// $LATHE_CACHE, else $XDG_CACHE_HOME/lathe, else ~/.cache/lathe.
std::filesystem::path DefaultCacheDir();

// The folder that holds this process's executable: sibling programs are started from there.
std::filesystem::path ProgramFolder();

}  // namespace lathe
