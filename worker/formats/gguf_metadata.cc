#include "absl/strings/str_cat.h"
#include "worker/formats/import_source.h"

namespace lathe {
namespace {

absl::Status KeyError(const std::string& key, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(key, " ", what));
}

template <typename T>
absl::StatusOr<T> Get(const GgufFile& file, const std::string& key, absl::string_view kind) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end())
    return KeyError(key, absl::StrCat("is missing; must be ", kind));
  if (const T* value = std::get_if<T>(&found->second)) return *value;
  return KeyError(key, absl::StrCat("has another type; must be ", kind));
}

}  // namespace

absl::StatusOr<int64_t> GgufInteger(const GgufFile& file, const std::string& key) {
  return Get<int64_t>(file, key, "a whole number");
}

absl::StatusOr<double> GgufNumber(const GgufFile& file, const std::string& key) {
  return Get<double>(file, key, "a floating-point number");
}

absl::StatusOr<std::string> GgufText(const GgufFile& file, const std::string& key) {
  auto text = Get<absl::string_view>(file, key, "a string");
  if (!text.ok()) return text.status();
  return std::string(*text);
}

template <>
absl::StatusOr<std::vector<int64_t>> GgufList(const GgufFile& file, const std::string& key) {
  return Get<std::vector<int64_t>>(file, key, "a list of whole numbers");
}

template <>
absl::StatusOr<std::vector<double>> GgufList(const GgufFile& file, const std::string& key) {
  return Get<std::vector<double>>(file, key, "a list of floating-point numbers");
}

template <>
absl::StatusOr<std::vector<absl::string_view>> GgufList(const GgufFile& file,
                                                        const std::string& key) {
  return Get<std::vector<absl::string_view>>(file, key, "a list of strings");
}

bool GgufHas(const GgufFile& file, const std::string& key) {
  return file.metadata().count(key) > 0;
}

}  // namespace lathe
