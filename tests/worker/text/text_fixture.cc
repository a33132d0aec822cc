#include "tests/worker/text/text_fixture.h"

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

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
                                                         absl::string_view config_json,
                                                         absl::string_view model_json) {
  LATHE_ASSIGN_OR_RETURN(const TempFolder folder, TempFolder::Make("text_model"));
  LATHE_RETURN_IF_ERROR(WriteFileAtomically(folder.path() / "tokenizer.json", tokenizer_json));
  if (!config_json.empty()) {
    LATHE_RETURN_IF_ERROR(
        WriteFileAtomically(folder.path() / "tokenizer_config.json", config_json));
  }
  if (!model_json.empty()) {
    LATHE_RETURN_IF_ERROR(WriteFileAtomically(folder.path() / "config.json", model_json));
  }
  return TextModel::Load(folder.path());
}

std::filesystem::path PeerPath(const std::filesystem::path& path) {
  const char* cache = std::getenv("LATHE_CACHE");
  const char* home = std::getenv("HOME");
  const std::filesystem::path root =
      cache != nullptr ? std::filesystem::path(cache)
                       : std::filesystem::path(home == nullptr ? "" : home) / ".cache" / "lathe";
  return root / "peers" / path;
}

absl::StatusOr<std::string> ReadPeerFile(const std::filesystem::path& path) {
  return ReadFile(PeerPath(path), size_t{64} << 20);
}

std::string TokenizerWith(const std::vector<std::string>& special) {
  nlohmann::json tokenizer = nlohmann::json::parse(ReadTestFile(kTokenizer));
  nlohmann::json& added = tokenizer["added_tokens"];
  int next = 0;
  std::set<std::string> known;
  for (const auto& token : added) {
    next = std::max(next, token["id"].get<int>() + 1);
    known.insert(token["content"]);
  }
  for (const auto& [text, id] : tokenizer["model"]["vocab"].items()) {
    next = std::max(next, id.get<int>() + 1);
  }
  for (const std::string& text : special) {
    if (!known.insert(text).second) continue;
    nlohmann::json token = added[0];
    token["id"] = next++;
    token["content"] = text;
    added.push_back(token);
  }
  return tokenizer.dump();
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
