#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

// Text of strangers: is it text, and how does a message show it.

namespace lathe {

// Offset of the first byte that is not part of well-formed UTF-8 (Unicode 15, table 3-7), or npos.
size_t FindInvalidUtf8(absl::string_view text);

// One line of valid UTF-8: at most `max_bytes` of `text`, control characters and bytes that are not
// UTF-8 as "?", and "..." where it was cut. Safe in a log line and in protobuf.
std::string OneLine(absl::string_view text, size_t max_bytes);

// OneLine in single quotes.
std::string Quoted(absl::string_view text, size_t max_bytes = 40);

}  // namespace lathe
