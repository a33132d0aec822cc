#include "cli/hub/hub_reference.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace lathe::cli {
namespace {

constexpr absl::string_view kScheme = "hf:";
constexpr size_t kMaxPart = 200;

// Nothing that a path or a URL could read as something else.
bool IsPart(absl::string_view text, absl::string_view more = "") {
  if (text.empty() || text.size() > kMaxPart || text[0] == '.' || text[0] == '-') return false;
  if (absl::StrContains(text, "..")) return false;
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-' ||
           more.find(c) != absl::string_view::npos;
  });
}

absl::Status Refuse(absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", text.substr(0, kMaxPart),
                   "' names no model of a hub; must be hf:OWNER/NAME, with @REVISION or "
                   ":FILE.gguf behind it if need be"));
}

// Cuts `text` at the first `mark` and returns what is behind it; empty if there is none.
absl::string_view CutAt(char mark, absl::string_view& text) {
  const size_t at = text.find(mark);
  if (at == absl::string_view::npos) return "";
  const absl::string_view rest = text.substr(at + 1);
  text = text.substr(0, at);
  return rest;
}

}  // namespace

bool IsHubReference(absl::string_view text) { return absl::StartsWith(text, kScheme); }

absl::StatusOr<HubReference> ParseHubReference(absl::string_view text) {
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, kScheme)) return Refuse(text);
  HubReference reference;
  const bool has_file = absl::StrContains(rest, ':');
  reference.file = std::string(CutAt(':', rest));
  const bool has_revision = absl::StrContains(rest, '@');
  const absl::string_view revision = CutAt('@', rest);
  if (has_revision) reference.revision = std::string(revision);
  const std::vector<absl::string_view> parts = absl::StrSplit(rest, '/');
  if (parts.size() != 2 || !IsPart(parts[0]) || !IsPart(parts[1])) return Refuse(text);
  if (!IsPart(reference.revision, "/")) return Refuse(text);
  if (has_file && !(IsPart(reference.file) && absl::EndsWith(reference.file, ".gguf"))) {
    return Refuse(text);
  }
  reference.owner = std::string(parts[0]);
  reference.name = std::string(parts[1]);
  return reference;
}

}  // namespace lathe::cli
