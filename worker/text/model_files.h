#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

// What a canonical model folder says about its text, read but not yet understood.

namespace lathe {

struct ModelFiles {
  std::string tokenizer_json;
  // Source of the chat template; empty if the folder has none.
  std::string chat_template;
  // The file that `chat_template` is from.
  std::string chat_template_file;
  // bos_token, eos_token, ... as text: templates see them as variables.
  std::vector<std::pair<std::string, std::string>> special_tokens;
  // Empty if the model has none.
  std::string eos_token;
  // is_encoder_decoder of config.json: it takes a source and makes a target, without a template.
  bool is_encoder_decoder = false;
};

// InvalidArgument or NotFound names the file and the fault. tokenizer_config.json,
// chat_template.jinja and config.json may be missing; the latter wins over the template in the
// former.
absl::StatusOr<ModelFiles> ReadModelFiles(const std::filesystem::path& model_dir);

}  // namespace lathe
