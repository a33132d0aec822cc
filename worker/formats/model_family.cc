#include "worker/formats/model_family.h"

#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lathe {
namespace {

constexpr std::array<const ModelFamily*, 6> kFamilies = {
    &kChatGlmFamily, &kLlamaFamily, &kMistralFamily, &kQwen2Family, &kQwen3Family, &kT5Family};

const ModelFamily* Find(absl::string_view ModelFamily::*name, absl::string_view value) {
  for (const ModelFamily* family : kFamilies) {
    if (!value.empty() && family->*name == value) return family;
  }
  return nullptr;
}

}  // namespace

const ModelFamily* FindFamily(absl::string_view architecture) {
  return Find(&ModelFamily::architecture, architecture);
}

const ModelFamily* FindFamilyOfGguf(absl::string_view general_architecture) {
  return Find(&ModelFamily::gguf, general_architecture);
}

const ModelFamily* GgufFormOf(const ModelFamily& family) {
  return FindFamilyOfGguf(family.gguf.empty() ? family.gguf_written_as : family.gguf);
}

std::string GgufWritableArchitectures() {
  std::vector<std::string> names;
  for (const ModelFamily* family : kFamilies) {
    if (GgufFormOf(*family) != nullptr) names.emplace_back(family->architecture);
  }
  return absl::StrJoin(names, ", ");
}

std::string SupportedArchitectures() {
  return absl::StrJoin(kFamilies, ", ", [](std::string* out, const ModelFamily* family) {
    absl::StrAppend(out, family->architecture);
  });
}

std::string SupportedGgufArchitectures() {
  std::vector<std::string> names;
  for (const ModelFamily* family : kFamilies) {
    if (!family->gguf.empty()) names.push_back(absl::StrCat("\"", family->gguf, "\""));
  }
  return absl::StrJoin(names, ", ");
}

}  // namespace lathe
