#include "common/config/job_file.h"

#include <yaml-cpp/yaml.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/spec/field.h"

namespace lathe {
namespace {

constexpr int kMaxDepth = 8;
constexpr size_t kMaxBytes = size_t{1} << 20;

absl::Status ErrorAt(const YAML::Node& node, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat("line ", node.Mark().line + 1, ": ", message));
}

absl::StatusOr<std::string> ValueText(const YAML::Node& node, absl::string_view key) {
  if (node.IsScalar()) return node.Scalar();
  std::vector<std::string> items;
  for (const YAML::Node& item : node) {
    if (!item.IsScalar())
      return ErrorAt(item, absl::StrCat(key, " holds something else than plain values"));
    items.push_back(item.Scalar());
  }
  return absl::StrCat("[", absl::StrJoin(items, ","), "]");
}

absl::Status ReadMap(const YAML::Node& map, const std::string& prefix, int depth,
                     std::set<std::string>& seen, JobSpec& spec) {
  if (!map.IsMap()) return ErrorAt(map, "expected 'key: value' lines");
  if (depth > kMaxDepth) return ErrorAt(map, absl::StrCat("more than ", kMaxDepth, " levels"));
  for (const auto& entry : map) {
    if (!entry.first.IsScalar()) return ErrorAt(entry.first, "a key must be plain text");
    const std::string key = absl::StrCat(prefix, entry.first.Scalar());
    if (entry.second.IsMap()) {
      LATHE_RETURN_IF_ERROR(ReadMap(entry.second, key + ".", depth + 1, seen, spec));
      continue;
    }
    if (!seen.insert(key).second)
      return ErrorAt(entry.first, absl::StrCat("key '", key, "' is there twice"));
    LATHE_ASSIGN_OR_RETURN(const std::string text, ValueText(entry.second, key));
    if (absl::Status status = SetJobField(spec, key, text); !status.ok()) {
      return ErrorAt(entry.first, status.message());
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JobSpec> ParseJobFile(absl::string_view yaml) {
  if (yaml.size() > kMaxBytes) return absl::InvalidArgumentError("job file is over 1 MiB");
  // An alias can make a small file endless; a job file needs none.
  JobSpec spec;
  try {
    const YAML::Node root = YAML::Load(std::string(yaml));
    if (!root || root.IsNull())
      return absl::InvalidArgumentError("job file is empty; it needs at least model and dataset");
    std::set<std::string> seen;
    LATHE_RETURN_IF_ERROR(ReadMap(root, "", 1, seen, spec));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("line ", error.mark.line + 1, ": ", error.msg));
  }
  return spec;
}

absl::StatusOr<JobSpec> LoadJobFile(const std::filesystem::path& path) {
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxBytes));
  absl::StatusOr<JobSpec> spec = ParseJobFile(text);
  if (!spec.ok()) return Annotate(spec.status(), path.string());
  return spec;
}

}  // namespace lathe
