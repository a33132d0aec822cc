#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/text_model.h"

// Model folders for the tests of worker/text. Tests run in the source folder.

namespace lathe {

inline constexpr char kTinyLlama[] = "tests/data/tiny-llama";

// A temporary folder with the tokenizer of tests/data/chat-templates (byte-level, with the special
// tokens of several model families) and a template.
struct TextSpec {
  std::string chat_template;
  std::string bos_token = "<s>";
  std::string eos_token = "</s>";
};
absl::StatusOr<std::unique_ptr<TextModel>> LoadTextModel(const TextSpec& spec);

// With another tokenizer.json, tokenizer_config.json and config.json; an empty text writes none.
absl::StatusOr<std::unique_ptr<TextModel>> LoadTextModel(absl::string_view tokenizer_json,
                                                         absl::string_view config_json,
                                                         absl::string_view model_json = "");

std::string ReadTestFile(const std::filesystem::path& path);

// Ids in order.
// A file of `scripts/setup --only peers`, by its path below the cache's peers folder.
std::filesystem::path PeerPath(const std::filesystem::path& path);
absl::StatusOr<std::string> ReadPeerFile(const std::filesystem::path& path);

// The tokenizer.json of TextSpec with more special tokens.
std::string TokenizerWith(const std::vector<std::string>& special);

std::vector<int32_t> IdsOf(const std::vector<RenderedToken>& tokens);
// The texts of the trained tokens, one after the other.
std::string TrainedText(const TextModel& model, const std::vector<RenderedToken>& tokens);
// The texts of the tokens from `source`.
std::string TextFrom(const TextModel& model, const std::vector<RenderedToken>& tokens,
                     TokenSource source);

}  // namespace lathe
