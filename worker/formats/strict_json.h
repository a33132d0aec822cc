#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

// JSON from files that strangers made. Only for .cc files of this folder.

namespace lathe {

// InvalidArgument "NAME: ...": not JSON, not UTF-8, nested deeper than 64, or a key twice in one
// object (nlohmann would keep the last one silently).
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text, absl::string_view name);

// The same, and the outermost value is an object.
absl::StatusOr<nlohmann::json> ParseStrictObject(absl::string_view text, absl::string_view name);

// `text` as a JSON string with its quotes. None: it is not UTF-8.
std::optional<std::string> JsonQuoted(absl::string_view text);

// A value for a message: one line, at most 80 bytes.
std::string ShortJson(const nlohmann::json& value);

}  // namespace lathe
