#include "worker/text/model_files.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
constexpr size_t kMaxConfigBytes = size_t{32} << 20;
constexpr size_t kMaxTemplateBytes = size_t{1} << 20;
constexpr int kMaxDepth = 64;
constexpr char kConfigName[] = "tokenizer_config.json";
constexpr char kModelConfigName[] = "config.json";
constexpr char kTemplateName[] = "chat_template.jinja";

// The empty string if there is no such file.
absl::StatusOr<std::string> ReadIfThere(const fs::path& path, size_t max_bytes) {
  absl::StatusOr<std::string> bytes = ReadFile(path, max_bytes);
  if (absl::IsNotFound(bytes.status())) return std::string();
  return bytes;
}

// A token is written as a string or as {"content": ...}; anything else is no token.
std::string TokenOf(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object()) return "";
  const auto content = value.find("content");
  return content != value.end() && content->is_string() ? content->get<std::string>() : "";
}

void ReadSpecialTokens(const Json& config, ModelFiles& files) {
  for (const auto& [key, value] : config.items()) {
    if (!absl::EndsWith(key, "_token")) continue;
    const std::string token = TokenOf(value);
    if (token.empty()) continue;
    files.special_tokens.emplace_back(key, token);
    if (key == "eos_token") files.eos_token = token;
  }
}

// One template, or a list of named ones of which "default" counts.
absl::StatusOr<std::string> TemplateOf(const Json& value) {
  if (value.is_null()) return std::string();
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const Json& item : value) {
      if (!item.is_object() || item.value("name", Json()) != "default") continue;
      const auto source = item.find("template");
      if (source != item.end() && source->is_string()) return source->get<std::string>();
    }
    return absl::InvalidArgumentError("chat_template: a list without one named 'default'");
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "chat_template: is ", value.type_name(), "; allowed are a string and a list of named ones"));
}

absl::Status ReadConfig(absl::string_view bytes, ModelFiles& files) {
  if (bytes.empty()) return absl::OkStatus();
  // Copies of a value are recursive: none may be deep.
  bool is_deep = false;
  const auto bound = [&](int depth, Json::parse_event_t, Json&) {
    is_deep = is_deep || depth > kMaxDepth;
    return !is_deep;
  };
  const Json config = Json::parse(bytes.begin(), bytes.end(), bound, /*allow_exceptions=*/false);
  if (is_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat("is nested deeper than the ", kMaxDepth, " levels allowed"));
  }
  if (!config.is_object()) return absl::InvalidArgumentError("is not a JSON object");
  ReadSpecialTokens(config, files);
  const auto source = config.find("chat_template");
  if (source == config.end()) return absl::OkStatus();
  LATHE_ASSIGN_OR_RETURN(files.chat_template, TemplateOf(*source));
  files.chat_template_file = kConfigName;
  return absl::OkStatus();
}

absl::StatusOr<bool> ReadsSources(absl::string_view model_config) {
  if (model_config.empty()) return false;
  const Json config =
      Json::parse(model_config.begin(), model_config.end(), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InvalidArgumentError("is not a JSON object");
  return config.value("is_encoder_decoder", Json()) == true;
}

}  // namespace

absl::StatusOr<ModelFiles> ReadModelFiles(const fs::path& model_dir) {
  ModelFiles files;
  LATHE_ASSIGN_OR_RETURN(files.tokenizer_json,
                         ReadFile(model_dir / "tokenizer.json", kMaxTokenizerBytes));
  LATHE_ASSIGN_OR_RETURN(const std::string config,
                         ReadIfThere(model_dir / kConfigName, kMaxConfigBytes));
  LATHE_RETURN_IF_ERROR(Annotate(ReadConfig(config, files), (model_dir / kConfigName).string()));
  LATHE_ASSIGN_OR_RETURN(const std::string model_config,
                         ReadIfThere(model_dir / kModelConfigName, kMaxConfigBytes));
  const absl::StatusOr<bool> reads_sources = ReadsSources(model_config);
  if (!reads_sources.ok()) {
    return Annotate(reads_sources.status(), (model_dir / kModelConfigName).string());
  }
  files.is_encoder_decoder = *reads_sources;
  LATHE_ASSIGN_OR_RETURN(std::string source,
                         ReadIfThere(model_dir / kTemplateName, kMaxTemplateBytes));
  if (!source.empty()) {
    files.chat_template = std::move(source);
    files.chat_template_file = kTemplateName;
  }
  return files;
}

}  // namespace lathe
