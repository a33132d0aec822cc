#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/formats/gguf.h"
#include "worker/formats/model_config.h"

// The inside of ImportModel: one interface over both kinds of source.

namespace lathe {

// An opened, wholly checked source: what is left is reading weights. Immutable.
class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const ModelConfig& config() const = 0;
  // Name and bytes of every file of the canonical folder but config.json and model.safetensors.
  virtual const std::map<std::string, std::string>& text_files() const = 0;
  // Rows of parameter `index` of ParameterSpecs(config()); a one-dimensional parameter is one row.
  virtual void ReadRows(size_t index, int64_t first_row, int64_t num_rows, float* out) const = 0;
};

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufSource(const std::filesystem::path& file);
absl::StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceSource(
    const std::filesystem::path& dir);

// The path of `name` in `dir`. InvalidArgument: the name has path parts, or it is a symbolic link
// that leads out of the folder. NotFound.
absl::StatusOr<std::filesystem::path> FileInFolder(const std::filesystem::path& dir,
                                                   const std::string& name);

// Metadata by key. InvalidArgument: missing or of another type.
absl::StatusOr<int64_t> GgufInteger(const GgufFile& file, const std::string& key);
absl::StatusOr<double> GgufNumber(const GgufFile& file, const std::string& key);
absl::StatusOr<std::string> GgufText(const GgufFile& file, const std::string& key);
template <typename T>
absl::StatusOr<std::vector<T>> GgufList(const GgufFile& file, const std::string& key);
bool GgufHas(const GgufFile& file, const std::string& key);

// tokenizer.json alone. Unimplemented: a kind of tokenizer that is not known here.
absl::StatusOr<std::string> TokenizerJsonFromGguf(const GgufFile& file);

// tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja and
// generation_config.json from tokenizer.*; puts the special ids into `config`.
absl::StatusOr<std::map<std::string, std::string>> TokenizerFilesFromGguf(const GgufFile& file,
                                                                          ModelConfig& config);

}  // namespace lathe
