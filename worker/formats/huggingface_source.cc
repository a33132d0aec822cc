#include <algorithm>
#include <cstring>
#include <set>
#include <type_traits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/import_source.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/strict_json.h"
#include "worker/formats/tokenizer_json.h"
#include "worker/formats/weight_files.h"

namespace lathe {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kMaxTextBytes = size_t{64} << 20;

bool Exists(const fs::path& dir, const std::string& name) {
  std::error_code error;
  return fs::exists(fs::symlink_status(dir / name, error));
}

// Of a folder without tokenizer.json: llama and T5 name the file differently.
std::string SentencePieceName(const fs::path& dir) {
  for (const char* name : {"tokenizer.model", "spiece.model"}) {
    if (Exists(dir, name)) return name;
  }
  return "";
}

// All that is missing, at once.
absl::Status CheckPresence(const fs::path& dir) {
  std::vector<std::string> missing;
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"}) {
    const bool is_replaced =
        name == absl::string_view("tokenizer.json") && !SentencePieceName(dir).empty();
    if (!Exists(dir, name) && !is_replaced) missing.emplace_back(name);
  }
  const absl::Status weights = WeightFiles::Look(dir);
  if (absl::IsNotFound(weights)) missing.emplace_back("model.safetensors");
  if (absl::IsUnimplemented(weights)) return weights;
  if (missing.empty()) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat(dir.string(), ": is missing ", absl::StrJoin(missing, ", ")));
}

absl::StatusOr<std::string> ReadText(const fs::path& dir, const std::string& name) {
  LATHE_ASSIGN_OR_RETURN(const fs::path path, FileInFolder(dir, name));
  return ReadFile(path, kMaxTextBytes);
}

absl::StatusOr<json> ReadObject(const fs::path& dir, const std::string& name) {
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadText(dir, name));
  return ParseStrictObject(text, (dir / name).string());
}

// A file that need not be there: an empty object then.
absl::StatusOr<json> ReadOptionalObject(const fs::path& dir, const std::string& name) {
  if (!Exists(dir, name)) return json::object();
  return ReadObject(dir, name);
}

// A string, or a list of {"name", "template"} of which the one called "default" counts.
const json* NamedTemplate(const json& value) {
  if (value.is_string()) return &value;
  if (!value.is_array()) return nullptr;
  for (const json& entry : value) {
    if (entry.is_object() && entry.value("name", json()) == "default" &&
        entry.contains("template") && entry["template"].is_string()) {
      return &entry["template"];
    }
  }
  return nullptr;
}

// chat_template.jinja wins, as in transformers.
absl::StatusOr<std::string> ChatTemplate(const fs::path& dir, const json& tokenizer_config) {
  if (Exists(dir, "chat_template.jinja")) {
    LATHE_ASSIGN_OR_RETURN(std::string text, ReadText(dir, "chat_template.jinja"));
    if (JsonQuoted(text)) return text;
    return absl::InvalidArgumentError(
        absl::StrCat((dir / "chat_template.jinja").string(), ": is not UTF-8"));
  }
  const json* found = tokenizer_config.contains("chat_template")
                          ? NamedTemplate(tokenizer_config["chat_template"])
                          : nullptr;
  if (found != nullptr) return found->get<std::string>();
  return absl::InvalidArgumentError(
      absl::StrCat(dir.string(),
                   ": has no chat template; must be in chat_template.jinja or in "
                   "tokenizer_config.json as chat_template"));
}

// eos_token and the like stand in tokenizer_config.json; older folders have them only in the map.
json SpecialTokens(const json& tokenizer_config, const json& map) {
  json tokens = map;
  for (const char* name : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    const json value = tokenizer_config.value(name, json());
    if (!value.is_null()) tokens[name] = value;
  }
  return tokens;
}

json GenerationConfig(const json& given, const ModelConfig& config) {
  json root = given;
  const auto fill = [&](const char* key, const json& value) {
    if (!root.contains(key) && !value.is_null()) root[key] = value;
  };
  fill("bos_token_id", config.bos_token_id < 0 ? json() : json(config.bos_token_id));
  fill("pad_token_id", config.pad_token_id < 0 ? json() : json(config.pad_token_id));
  fill("eos_token_id", config.eos_token_ids.empty() ? json() : json(config.eos_token_ids));
  if (config.encoder_decoder) fill("decoder_start_token_id", config.encoder_decoder->start_id);
  return root;
}

absl::StatusOr<std::string> ConvertSentencePiece(const fs::path& dir, const json& config) {
  const std::string name = SentencePieceName(dir);
  LATHE_ASSIGN_OR_RETURN(const std::string bytes, ReadText(dir, name));
  SentencePieceOptions options;
  const auto read = [&](const char* key, auto& to) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) return absl::OkStatus();
    using Value = std::remove_reference_t<decltype(to)>;
    const bool fits = std::is_same_v<Value, bool>      ? found->is_boolean()
                      : std::is_same_v<Value, int64_t> ? found->is_number_integer()
                                                       : found->is_string();
    if (fits) to = found->get<Value>();
    return fits ? absl::OkStatus()
                : absl::InvalidArgumentError(absl::StrCat((dir / "tokenizer_config.json").string(),
                                                          ": ", key, " is ", ShortJson(*found)));
  };
  LATHE_RETURN_IF_ERROR(read("tokenizer_class", options.tokenizer_class));
  LATHE_RETURN_IF_ERROR(read("legacy", options.legacy));
  LATHE_RETURN_IF_ERROR(read("add_prefix_space", options.add_prefix_space));
  LATHE_RETURN_IF_ERROR(read("extra_ids", options.extra_ids));
  auto converted = TokenizerJsonFromSentencePiece(bytes, options);
  if (!converted.ok()) return Annotate(converted.status(), (dir / name).string());
  return converted;
}

// tokenizer.json, or what it is made from.
absl::StatusOr<std::string> ReadTokenizer(const fs::path& dir, const json& tokenizer_config) {
  if (!Exists(dir, "tokenizer.json")) return ConvertSentencePiece(dir, tokenizer_config);
  LATHE_ASSIGN_OR_RETURN(std::string text, ReadText(dir, "tokenizer.json"));
  const std::string path = (dir / "tokenizer.json").string();
  LATHE_ASSIGN_OR_RETURN(const json tokenizer, ParseStrictObject(text, path));
  if (tokenizer.contains("model")) return text;
  return absl::InvalidArgumentError(absl::StrCat(path, ": has no model; no tokenizer file"));
}

absl::StatusOr<std::map<std::string, std::string>> ReadTextFiles(const fs::path& dir,
                                                                 const ModelConfig& config) {
  std::map<std::string, std::string> files;
  LATHE_ASSIGN_OR_RETURN(json tokenizer_config, ReadObject(dir, "tokenizer_config.json"));
  LATHE_ASSIGN_OR_RETURN(files["tokenizer.json"], ReadTokenizer(dir, tokenizer_config));
  LATHE_ASSIGN_OR_RETURN(const json map, ReadOptionalObject(dir, "special_tokens_map.json"));
  LATHE_ASSIGN_OR_RETURN(const json generation, ReadOptionalObject(dir, "generation_config.json"));
  const json special = SpecialTokens(tokenizer_config, map);
  for (const auto& [name, value] : special.items()) tokenizer_config[name] = value;
  if (config.encoder_decoder) {
    tokenizer_config.erase("chat_template");  // It would be for a conversation, which there is not.
    tokenizer_config.emplace("eos_token", "</s>");  // T5Tokenizer's default.
  } else {
    LATHE_ASSIGN_OR_RETURN(const std::string chat_template, ChatTemplate(dir, tokenizer_config));
    tokenizer_config["chat_template"] = chat_template;
    files["chat_template.jinja"] = chat_template;
  }
  files["generation_config.json"] = GenerationConfig(generation, config).dump(2) + "\n";
  files["special_tokens_map.json"] = special.dump(2) + "\n";
  files["tokenizer_config.json"] = tokenizer_config.dump(2) + "\n";
  return files;
}

void ConvertToFloat(Dtype dtype, const char* from, int64_t count, float* out) {
  if (dtype == Dtype::kF32) {
    std::memcpy(out, from, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, from + 2 * i, sizeof(bits));
    out[i] = dtype == Dtype::kF16 ? HalfToFloat(bits) : Bf16ToFloat(bits);
  }
}

class HuggingFaceSource : public ModelSource {
 public:
  HuggingFaceSource(ModelConfig config, WeightFiles files)
      : config_(std::move(config)), files_(std::move(files)) {}
  absl::Status Init(const fs::path& dir);

  const ModelConfig& config() const override { return config_; }
  const std::map<std::string, std::string>& text_files() const override { return text_files_; }
  void ReadRows(size_t index, int64_t first_row, int64_t num_rows, float* out) const override {
    const TensorView& tensor = *tensors_[index];
    const int64_t width = tensor.shape.back();
    const size_t begin = static_cast<size_t>(first_row * width) * DtypeSize(tensor.dtype);
    ConvertToFloat(tensor.dtype, tensor.bytes.data() + begin, num_rows * width, out);
  }

 private:
  absl::Status MatchTensors();
  // What the file has that is no parameter: nobody needs it, or it must be the embedding again.
  absl::Status CheckOther(const TensorView& tensor) const;

  const ModelConfig config_;
  const WeightFiles files_;
  std::map<std::string, std::string> text_files_;
  std::vector<const TensorView*> tensors_;
};

absl::Status HuggingFaceSource::Init(const fs::path& dir) {
  LATHE_RETURN_IF_ERROR(Annotate(MatchTensors(), (dir / files_.label()).string()));
  LATHE_ASSIGN_OR_RETURN(text_files_, ReadTextFiles(dir, config_));
  return absl::OkStatus();
}

absl::Status CheckTensor(const TensorView* tensor, const ParameterSpec& spec) {
  const std::string expected = absl::StrCat("[", absl::StrJoin(spec.shape, ", "), "]");
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", spec.name, "' is missing; must have the shape ", expected));
  }
  if (tensor->shape != spec.shape) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", spec.name, "' has the shape [",
                                                   absl::StrJoin(tensor->shape, ", "),
                                                   "]; must have ", expected));
  }
  if (tensor->dtype == Dtype::kF32 || tensor->dtype == Dtype::kF16 ||
      tensor->dtype == Dtype::kBf16) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat("tensor '", spec.name, "' has the type ",
                                               DtypeName(tensor->dtype),
                                               "; supported are F32, F16, BF16"));
}

// `spec`'s tensor, or another one that a file may have in its place. Null: there is none.
const TensorView* FindTensor(const WeightFiles& files, const DecoderLayout& layout,
                             const ParameterSpec& spec) {
  const TensorView* tensor = files.Find(spec.name);
  if (tensor != nullptr || spec.name != layout.embedding + ".weight") return tensor;
  for (const std::string& copy : layout.embedding_copies) {
    if (tensor == nullptr) tensor = files.Find(copy + ".weight");
  }
  return tensor;
}

absl::Status HuggingFaceSource::MatchTensors() {
  const DecoderLayout layout = LayoutOf(config_);
  std::set<const TensorView*> used;
  for (const ParameterSpec& spec : ParameterSpecs(config_)) {
    const TensorView* tensor = FindTensor(files_, layout, spec);
    LATHE_RETURN_IF_ERROR(CheckTensor(tensor, spec));
    tensors_.push_back(tensor);
    used.insert(tensor);
  }
  for (const auto& [name, tensor] : files_.tensors()) {
    if (used.count(tensor) == 0) LATHE_RETURN_IF_ERROR(CheckOther(*tensor));
  }
  return absl::OkStatus();
}

absl::Status HuggingFaceSource::CheckOther(const TensorView& tensor) const {
  const DecoderLayout layout = LayoutOf(config_);
  const auto is_one_of = [&](const std::vector<std::string>& modules) {
    return std::any_of(modules.begin(), modules.end(), [&](const std::string& module) {
      return tensor.name == module + ".weight";
    });
  };
  // Old files carry rotary constants.
  if (absl::EndsWith(tensor.name, ".inv_freq") || is_one_of(layout.unused)) return absl::OkStatus();
  std::vector<std::string> copies = layout.embedding_copies;
  if (config_.tie_word_embeddings) copies.push_back(layout.head);
  if (!is_one_of(copies)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", ShortJson(tensor.name),
                                                   " is there; a ", config_.architecture,
                                                   " of these sizes has none of that name"));
  }
  const TensorView& embedding = *tensors_[0];
  if (tensor.dtype == embedding.dtype && tensor.bytes == embedding.bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor ", ShortJson(tensor.name),
                                                 " has other values than '", embedding.name,
                                                 "'; config.json says that they are one"));
}

}  // namespace

absl::StatusOr<fs::path> FileInFolder(const fs::path& dir, const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("file name ", ShortJson(name), ": must be a plain name"));
  }
  std::error_code error;
  const fs::path folder = fs::canonical(dir, error);
  if (error) return ErrnoToStatus(error.value(), dir.string());
  fs::path file = fs::canonical(dir / name, error);
  if (error) return ErrnoToStatus(error.value(), (dir / name).string());
  const auto [end, unused] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  if (end == folder.end()) return file;
  return absl::InvalidArgumentError(
      absl::StrCat((dir / name).string(), ": is a symbolic link out of its folder, to ",
                   file.string(), "; copy the folder with cp -rL first"));
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceSource(const fs::path& dir) {
  LATHE_RETURN_IF_ERROR(CheckPresence(dir));
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadText(dir, "config.json"));
  auto config = ParseModelConfig(text);
  if (!config.ok()) return Annotate(config.status(), dir.string());
  LATHE_ASSIGN_OR_RETURN(WeightFiles files, WeightFiles::Open(dir));
  auto source = std::make_unique<HuggingFaceSource>(*std::move(config), std::move(files));
  LATHE_RETURN_IF_ERROR(source->Init(dir));
  return source;
}

}  // namespace lathe
