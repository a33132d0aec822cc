#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lathe::cli {

// "hf:OWNER/NAME", "hf:OWNER/NAME@REVISION", "hf:OWNER/NAME:FILE.gguf", or both:
// "hf:OWNER/NAME@REVISION:FILE.gguf".
struct HubReference {
  std::string owner;
  std::string name;
  std::string revision = "main";  // Branch, tag or commit.
  std::string file = "";          // Empty: the model's safetensors, or its only GGUF file.

  std::string repository() const { return owner + "/" + name; }
};

bool IsHubReference(absl::string_view text);  // Starts with "hf:".

// InvalidArgument: parts are missing, or hold other than letters, digits, '.', '_' and '-' (a
// revision also '/'); a file that is not a .gguf.
absl::StatusOr<HubReference> ParseHubReference(absl::string_view text);

}  // namespace lathe::cli
