#include "tests/worker/text/text_fixture.h"

#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "common/base/status.h"

namespace lathe {
namespace {

constexpr char kTokenizer[] = "tests/data/chat-templates/tokenizer.json";

}  // namespace

std::string ReadTestFile(const std::filesystem::path& path) { return ReadFile(path).value(); }

absl::StatusOr<std::unique_ptr<TextModel>> LoadTextModel(const TextSpec& spec) {
  nlohmann::json config;
  if (!spec.bos_token.empty()) config["bos_token"] = spec.bos_token;
  if (!spec.eos_token.empty()) config["eos_token"] = {{"content", spec.eos_token}};
  if (!spec.chat_template.empty()) config["chat_template"] = spec.chat_template;
  return LoadTextModel(ReadTestFile(kTokenizer), config.dump());
}

absl::StatusOr<std::unique_ptr<TextModel>> LoadTextModel(absl::string_view tokenizer_json,
                                                         absl::string_view config_json) {
  LATHE_ASSIGN_OR_RETURN(const TempFolder folder, TempFolder::Make("text_model"));
  LATHE_RETURN_IF_ERROR(WriteFileAtomically(folder.path() / "tokenizer.json", tokenizer_json));
  if (!config_json.empty()) {
    LATHE_RETURN_IF_ERROR(
        WriteFileAtomically(folder.path() / "tokenizer_config.json", config_json));
  }
  return TextModel::Load(folder.path());
}

std::vector<int32_t> IdsOf(const std::vector<RenderedToken>& tokens) {
  std::vector<int32_t> ids;
  for (const RenderedToken& token : tokens) ids.push_back(token.id);
  return ids;
}

std::string TrainedText(const TextModel& model, const std::vector<RenderedToken>& tokens) {
  std::string text;
  for (const RenderedToken& token : tokens) {
    if (token.trained) text += model.TokenText(token.id);
  }
  return text;
}

std::string TextFrom(const TextModel& model, const std::vector<RenderedToken>& tokens,
                     TokenSource source) {
  std::string text;
  for (const RenderedToken& token : tokens) {
    if (token.source == source) text += model.TokenText(token.id);
  }
  return text;
}

}  // namespace lathe
