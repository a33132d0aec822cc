#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace lathe {

// A flag in seconds, in [low, high], for a time that its owner has a default for.
inline void AddSeconds(CLI::App& app, const std::string& flag, absl::Duration& target, double low,
                       double high, const std::string& text) {
  app.add_option_function<double>(
         flag, [&target](double seconds) { target = absl::Seconds(seconds); }, text)
      ->check(CLI::Range(low, high))
      ->default_str(absl::StrCat(absl::ToDoubleSeconds(target)));
}

}  // namespace lathe
