#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/gguf_names.h"
#include "worker/formats/gguf_rope.h"
#include "worker/formats/import_source.h"
#include "worker/formats/model_family.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

// Keys of ARCHITECTURE.* that are read or change nothing. Any other may change the mathematics.
const std::set<std::string>& KnownKeys() {
  static const auto* keys =
      new std::set<std::string>{"block_count",          "context_length",
                                "embedding_length",     "feed_forward_length",
                                "attention.head_count", "attention.head_count_kv",
                                "rope.freq_base",       "attention.layer_norm_rms_epsilon",
                                "vocab_size",           "rope.dimension_count",
                                "attention.key_length", "attention.value_length",
                                "tensor_data_layout",   "rope.scaling.type",
                                "rope.scaling.factor"};
  return *keys;
}

absl::StatusOr<const ModelFamily*> FamilyOf(const GgufFile& file) {
  LATHE_ASSIGN_OR_RETURN(const std::string architecture, GgufText(file, "general.architecture"));
  const ModelFamily* family = FindFamilyOfGguf(architecture);
  if (family != nullptr) return family;
  return absl::UnimplementedError(absl::StrCat("general.architecture is ", ShortJson(architecture),
                                               "; supported are ", SupportedGgufArchitectures()));
}

// Reads the keys of one architecture: "llama.block_count".
class KeyReader {
 public:
  KeyReader(const GgufFile& file, absl::string_view architecture)
      : file_(file), prefix_(absl::StrCat(architecture, ".")) {}

  std::string Key(absl::string_view name) const { return absl::StrCat(prefix_, name); }
  absl::Status Check() const;
  absl::Status Integer(absl::string_view name, int64_t& value) const {
    LATHE_ASSIGN_OR_RETURN(value, GgufInteger(file_, Key(name)));
    return absl::OkStatus();
  }
  absl::Status OptionalInteger(absl::string_view name, int64_t& value) const {
    return GgufHas(file_, Key(name)) ? Integer(name, value) : absl::OkStatus();
  }
  absl::Status Number(absl::string_view name, double& value) const {
    LATHE_ASSIGN_OR_RETURN(value, GgufNumber(file_, Key(name)));
    return absl::OkStatus();
  }
  absl::Status OptionalNumber(absl::string_view name, double& value) const {
    return GgufHas(file_, Key(name)) ? Number(name, value) : absl::OkStatus();
  }

 private:
  const GgufFile& file_;
  const std::string prefix_;
};

absl::Status KeyReader::Check() const {
  for (const auto& [key, value] : file_.metadata()) {
    if (!absl::StartsWith(key, prefix_) || KnownKeys().count(key.substr(prefix_.size())) > 0) {
      continue;
    }
    return absl::UnimplementedError(absl::StrCat(ShortJson(key), " is set; supported of ", prefix_,
                                                 "* are ", absl::StrJoin(KnownKeys(), ", ")));
  }
  return absl::OkStatus();
}

// head_dim is written up to three times; all must agree.
absl::Status ReadHeadDim(const KeyReader& keys, ModelConfig& config) {
  config.head_dim = config.num_heads > 0 ? config.hidden_size / config.num_heads : 0;
  LATHE_RETURN_IF_ERROR(keys.OptionalInteger("attention.key_length", config.head_dim));
  for (const char* name : {"attention.value_length", "rope.dimension_count"}) {
    int64_t other = config.head_dim;
    LATHE_RETURN_IF_ERROR(keys.OptionalInteger(name, other));
    if (other == config.head_dim) continue;
    return absl::UnimplementedError(absl::StrCat(keys.Key(name), " is ", other, "; supported is ",
                                                 config.head_dim, ", the size of a head"));
  }
  return absl::OkStatus();
}

absl::Status ReadSizes(const KeyReader& keys, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(keys.Integer("embedding_length", config.hidden_size));
  LATHE_RETURN_IF_ERROR(keys.Integer("feed_forward_length", config.intermediate_size));
  LATHE_RETURN_IF_ERROR(keys.Integer("block_count", config.num_layers));
  LATHE_RETURN_IF_ERROR(keys.Integer("attention.head_count", config.num_heads));
  LATHE_RETURN_IF_ERROR(keys.Integer("context_length", config.position_embeddings));
  config.max_positions = config.position_embeddings;
  config.num_kv_heads = config.num_heads;
  LATHE_RETURN_IF_ERROR(keys.OptionalInteger("attention.head_count_kv", config.num_kv_heads));
  LATHE_RETURN_IF_ERROR(ReadHeadDim(keys, config));
  LATHE_RETURN_IF_ERROR(keys.Number("attention.layer_norm_rms_epsilon", config.rms_norm_eps));
  return keys.OptionalNumber("rope.freq_base", config.rope_theta);
}

absl::Status ReadVocabularySize(const GgufFile& file, const KeyReader& keys, ModelConfig& config) {
  LATHE_ASSIGN_OR_RETURN(const auto tokens,
                         GgufList<absl::string_view>(file, "tokenizer.ggml.tokens"));
  config.vocab_size = static_cast<int64_t>(tokens.size());
  LATHE_RETURN_IF_ERROR(keys.OptionalInteger("vocab_size", config.vocab_size));
  if (static_cast<int64_t>(tokens.size()) <= config.vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens has ", tokens.size(),
                                                 " tokens; ", keys.Key("vocab_size"), " is ",
                                                 config.vocab_size));
}

absl::Status ReadRopeScaling(const GgufFile& file, const KeyReader& keys, ModelConfig& config) {
  const auto factors = file.tensors().find(kGgufRopeFactors);
  if (factors != file.tensors().end()) {
    LATHE_ASSIGN_OR_RETURN(config.rope_scaling, RopeScalingFromGguf(factors->second, config));
  }
  const std::string key = keys.Key("rope.scaling.type");
  if (!GgufHas(file, key)) return absl::OkStatus();
  LATHE_ASSIGN_OR_RETURN(const std::string type, GgufText(file, key));
  if (type == "none") return absl::OkStatus();
  if (type == "linear" && factors == file.tensors().end()) {
    config.rope_scaling.type = RopeType::kLinear;
    return keys.Number("rope.scaling.factor", config.rope_scaling.factor);
  }
  return absl::UnimplementedError(absl::StrCat(key, " is ", ShortJson(type),
                                               "; supported are \"none\", and \"linear\" without ",
                                               kGgufRopeFactors));
}

absl::StatusOr<ModelConfig> ReadConfig(const GgufFile& file, const ModelFamily& family) {
  const KeyReader keys(file, family.gguf);
  LATHE_RETURN_IF_ERROR(keys.Check());
  ModelConfig config = family.defaults();
  config.architecture = std::string(family.architecture);
  LATHE_RETURN_IF_ERROR(ReadSizes(keys, config));
  LATHE_RETURN_IF_ERROR(ReadVocabularySize(file, keys, config));
  config.attention_bias = file.tensors().count("blk.0.attn_q.bias") > 0;
  config.tie_word_embeddings = file.tensors().count("output.weight") == 0;
  LATHE_RETURN_IF_ERROR(ValidateModelConfig(config));
  LATHE_RETURN_IF_ERROR(ReadRopeScaling(file, keys, config));
  LATHE_RETURN_IF_ERROR(ValidateModelConfig(config));
  return config;
}

class GgufSource : public ModelSource {
 public:
  explicit GgufSource(GgufFile file) : file_(std::move(file)) {}
  absl::Status Init();

  const ModelConfig& config() const override { return config_; }
  const std::map<std::string, std::string>& text_files() const override { return text_files_; }
  void ReadRows(size_t index, int64_t first_row, int64_t num_rows, float* out) const override;

 private:
  struct Parameter {
    const GgufTensor* tensor = nullptr;
    bool permuted = false;  // Rows of q and k.
  };
  absl::Status MatchTensors(const ModelFamily& family);

  const GgufFile file_;
  ModelConfig config_;
  std::map<std::string, std::string> text_files_;
  std::vector<Parameter> parameters_;
};

absl::Status GgufSource::Init() {
  LATHE_ASSIGN_OR_RETURN(const ModelFamily* const family, FamilyOf(file_));
  LATHE_ASSIGN_OR_RETURN(config_, ReadConfig(file_, *family));
  LATHE_RETURN_IF_ERROR(MatchTensors(*family));
  LATHE_ASSIGN_OR_RETURN(text_files_, TokenizerFilesFromGguf(file_, config_));
  return absl::OkStatus();
}

absl::Status GgufSource::MatchTensors(const ModelFamily& family) {
  const DecoderLayout layout = LayoutOf(config_);
  std::set<std::string> used = {kGgufRopeFactors};  // Read with the configuration.
  for (const ParameterSpec& spec : ParameterSpecs(config_)) {
    const std::string name = GgufName(layout, spec.name);
    const auto found = file_.tensors().find(name);
    const std::string expected = absl::StrCat("[", absl::StrJoin(spec.shape, ", "), "]");
    if (found == file_.tensors().end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", name, "' is missing; must have the shape ", expected));
    }
    if (found->second.shape != spec.shape) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' has the shape [",
                                                     absl::StrJoin(found->second.shape, ", "),
                                                     "]; must have ", expected));
    }
    used.insert(name);
    parameters_.push_back({&found->second, IsPermuted(family, name)});
  }
  for (const auto& [name, tensor] : file_.tensors()) {
    if (used.count(name) > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("tensor ", ShortJson(name), " is there; a ",
                                                   config_.architecture,
                                                   " of these sizes has none of that name"));
  }
  return absl::OkStatus();
}

// A one-dimensional parameter is one row to the caller, and its values are what is permuted.
void GgufSource::ReadRows(size_t index, int64_t first_row, int64_t num_rows, float* out) const {
  const auto& [tensor, permuted] = parameters_[index];
  if (!permuted) return DequantizeRows(*tensor, first_row, num_rows, out);
  if (tensor->shape.size() == 1) {
    std::vector<float> stored(static_cast<size_t>(tensor->shape[0]));
    DequantizeRows(*tensor, 0, 1, stored.data());
    for (int64_t i = 0; i < tensor->shape[0]; ++i) {
      out[i] = stored[static_cast<size_t>(PermutedRow(i, config_.head_dim))];
    }
    return;
  }
  for (int64_t row = first_row; row < first_row + num_rows; ++row) {
    DequantizeRows(*tensor, PermutedRow(row, config_.head_dim), 1, out);
    out += tensor->shape.back();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufSource(const std::filesystem::path& path) {
  LATHE_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
  auto source = std::make_unique<GgufSource>(std::move(file));
  LATHE_RETURN_IF_ERROR(Annotate(source->Init(), path.string()));
  return source;
}

}  // namespace lathe
