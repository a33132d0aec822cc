#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "worker/formats/import_source.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

// llama.cpp's names for the parts of a layer; the prefix is "blk.N.".
struct PartName {
  absl::string_view ours;
  absl::string_view theirs;
};
constexpr PartName kParts[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
};

std::string GgufName(const std::string& ours) {
  if (ours == "model.embed_tokens.weight") return "token_embd.weight";
  if (ours == "model.norm.weight") return "output_norm.weight";
  if (ours == "lm_head.weight") return "output.weight";
  const absl::string_view rest = absl::string_view(ours).substr(sizeof("model.layers.") - 1);
  const size_t dot = rest.find('.');
  for (const PartName& part : kParts) {
    if (part.ours == rest.substr(dot + 1)) {
      return absl::StrCat("blk.", rest.substr(0, dot), ".", part.theirs);
    }
  }
  return "";
}

// Keys of llama.* that are read or change nothing. Any other may change the mathematics: refused.
const std::set<std::string>& KnownKeys() {
  static const auto* keys =
      new std::set<std::string>{"block_count",          "context_length",
                                "embedding_length",     "feed_forward_length",
                                "attention.head_count", "attention.head_count_kv",
                                "rope.freq_base",       "attention.layer_norm_rms_epsilon",
                                "vocab_size",           "rope.dimension_count",
                                "attention.key_length", "attention.value_length",
                                "tensor_data_layout",   "rope.scaling.type"};
  return *keys;
}

absl::Status CheckKeys(const GgufFile& file) {
  LATHE_ASSIGN_OR_RETURN(const std::string architecture, GgufText(file, "general.architecture"));
  if (architecture != "llama") {
    return absl::UnimplementedError(absl::StrCat(
        "general.architecture is ", ShortJson(architecture), "; supported is \"llama\""));
  }
  for (const auto& [key, value] : file.metadata()) {
    if (!absl::StartsWith(key, "llama.") || KnownKeys().count(key.substr(6)) > 0) continue;
    return absl::UnimplementedError(absl::StrCat(
        ShortJson(key), " is set; supported of llama.* are ", absl::StrJoin(KnownKeys(), ", ")));
  }
  if (!GgufHas(file, "llama.rope.scaling.type")) return absl::OkStatus();
  LATHE_ASSIGN_OR_RETURN(const std::string scaling, GgufText(file, "llama.rope.scaling.type"));
  if (scaling == "none") return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("llama.rope.scaling.type is ", ShortJson(scaling), "; supported is \"none\""));
}

absl::Status ReadOptionalInteger(const GgufFile& file, const std::string& key, int64_t& value) {
  if (!GgufHas(file, key)) return absl::OkStatus();
  LATHE_ASSIGN_OR_RETURN(value, GgufInteger(file, key));
  return absl::OkStatus();
}

// head_dim is written up to three times; all must agree.
absl::Status ReadHeadDim(const GgufFile& file, ModelConfig& config) {
  int64_t head_dim = config.num_heads > 0 ? config.hidden_size / config.num_heads : 0;
  LATHE_RETURN_IF_ERROR(ReadOptionalInteger(file, "llama.attention.key_length", head_dim));
  config.head_dim = head_dim;
  for (const char* key : {"llama.attention.value_length", "llama.rope.dimension_count"}) {
    int64_t other = head_dim;
    LATHE_RETURN_IF_ERROR(ReadOptionalInteger(file, key, other));
    if (other == head_dim) continue;
    return absl::UnimplementedError(
        absl::StrCat(key, " is ", other, "; supported is ", head_dim, ", the size of a head"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ReadConfig(const GgufFile& file) {
  LATHE_RETURN_IF_ERROR(CheckKeys(file));
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  LATHE_ASSIGN_OR_RETURN(config.hidden_size, GgufInteger(file, "llama.embedding_length"));
  LATHE_ASSIGN_OR_RETURN(config.intermediate_size, GgufInteger(file, "llama.feed_forward_length"));
  LATHE_ASSIGN_OR_RETURN(config.num_layers, GgufInteger(file, "llama.block_count"));
  LATHE_ASSIGN_OR_RETURN(config.num_heads, GgufInteger(file, "llama.attention.head_count"));
  LATHE_ASSIGN_OR_RETURN(config.max_positions, GgufInteger(file, "llama.context_length"));
  config.num_kv_heads = config.num_heads;
  LATHE_RETURN_IF_ERROR(
      ReadOptionalInteger(file, "llama.attention.head_count_kv", config.num_kv_heads));
  LATHE_RETURN_IF_ERROR(ReadHeadDim(file, config));
  LATHE_ASSIGN_OR_RETURN(config.rms_norm_eps,
                         GgufNumber(file, "llama.attention.layer_norm_rms_epsilon"));
  if (GgufHas(file, "llama.rope.freq_base")) {
    LATHE_ASSIGN_OR_RETURN(config.rope_theta, GgufNumber(file, "llama.rope.freq_base"));
  }
  LATHE_ASSIGN_OR_RETURN(const auto tokens,
                         GgufList<absl::string_view>(file, "tokenizer.ggml.tokens"));
  config.vocab_size = static_cast<int64_t>(tokens.size());
  LATHE_RETURN_IF_ERROR(ReadOptionalInteger(file, "llama.vocab_size", config.vocab_size));
  if (static_cast<int64_t>(tokens.size()) > config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens has ", tokens.size(),
                                                   " tokens; llama.vocab_size is ",
                                                   config.vocab_size));
  }
  config.tie_word_embeddings = file.tensors().count("output.weight") == 0;
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
  absl::Status MatchTensors();

  const GgufFile file_;
  ModelConfig config_;
  std::map<std::string, std::string> text_files_;
  std::vector<Parameter> parameters_;
};

absl::Status GgufSource::Init() {
  LATHE_ASSIGN_OR_RETURN(config_, ReadConfig(file_));
  LATHE_RETURN_IF_ERROR(MatchTensors());
  LATHE_ASSIGN_OR_RETURN(text_files_, TokenizerFilesFromGguf(file_, config_));
  return absl::OkStatus();
}

absl::Status GgufSource::MatchTensors() {
  std::set<std::string> used;
  for (const ParameterSpec& spec : ParameterSpecs(config_)) {
    const std::string name = GgufName(spec.name);
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
    const bool permuted =
        absl::EndsWith(name, ".attn_q.weight") || absl::EndsWith(name, ".attn_k.weight");
    parameters_.push_back({&found->second, permuted});
  }
  for (const auto& [name, tensor] : file_.tensors()) {
    if (used.count(name) > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", ShortJson(name), " is there; a Llama of these sizes has none of that name"));
  }
  return absl::OkStatus();
}

// llama.cpp turns the two halves of each head's rows into pairs (convert_hf_to_gguf.py, permute):
// row j * head_dim / 2 + i of a head is at 2 * i + j, for j in {0, 1}.
int64_t PermutedRow(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim;
  const int64_t half = head_dim / 2;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

void GgufSource::ReadRows(size_t index, int64_t first_row, int64_t num_rows, float* out) const {
  const Parameter& parameter = parameters_[index];
  if (!parameter.permuted) return DequantizeRows(*parameter.tensor, first_row, num_rows, out);
  for (int64_t row = first_row; row < first_row + num_rows; ++row) {
    DequantizeRows(*parameter.tensor, PermutedRow(row, config_.head_dim), 1, out);
    out += parameter.tensor->shape.back();
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
