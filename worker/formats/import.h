#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace lathe {

struct ImportedModel {
  std::string architecture;  // model_type of config.json: "llama".
  int64_t parameters = 0;
};

// Reads `source`, a Hugging Face folder or one .gguf file (or a folder that holds exactly one), and
// fills the new or empty folder `output`: config.json, generation_config.json, tokenizer.json,
// tokenizer_config.json, special_tokens_map.json, chat_template.jinja, model.safetensors (F32,
// 64-byte aligned). The same source gives the same bytes. After an error `output` is as it was.
// `progress` gets one line now and then. InvalidArgument or Unimplemented name file, thing, what it
// got and what is allowed.
absl::StatusOr<ImportedModel> ImportModel(const std::filesystem::path& source,
                                          const std::filesystem::path& output,
                                          const std::function<void(const std::string&)>& progress);

}  // namespace lathe
