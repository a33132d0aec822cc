#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/formats/config_json.h"
#include "worker/formats/model_family.h"

// T5, T5 1.1 and Flan-T5. Source: transformers, models/t5.

namespace lathe {
namespace {

using nlohmann::json;

ModelConfig Defaults() {
  ModelConfig config;
  config.position_embeddings = kMaxPositions;  // There are none: only distances count.
  config.max_positions = kMaxPositions;
  config.rms_norm_eps = 1e-6;
  config.tie_word_embeddings = true;
  config.pad_token_id = 0;
  return config;
}

absl::Status ReadSize(const json& root, const char* key, int64_t high, int64_t& value) {
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, key, value));
  return CheckRange(key, value, 1, high);
}

absl::Status ReadSizes(const json& root, ModelConfig& config, EncoderDecoder& own) {
  LATHE_RETURN_IF_ERROR(ReadSize(root, "d_model", 1 << 17, config.hidden_size));
  LATHE_RETURN_IF_ERROR(ReadSize(root, "d_ff", 1 << 20, config.intermediate_size));
  LATHE_RETURN_IF_ERROR(ReadSize(root, "d_kv", 1024, config.head_dim));
  LATHE_RETURN_IF_ERROR(ReadSize(root, "num_heads", 1024, config.num_heads));
  LATHE_RETURN_IF_ERROR(ReadSize(root, "num_layers", 1024, config.num_layers));
  LATHE_RETURN_IF_ERROR(ReadSize(root, "vocab_size", 1 << 22, config.vocab_size));
  config.num_kv_heads = config.num_heads;
  own.num_decoder_layers = config.num_layers;
  LATHE_RETURN_IF_ERROR(ReadInt(root, "num_decoder_layers", own.num_decoder_layers));
  return CheckRange("num_decoder_layers", own.num_decoder_layers, 1, 1024);
}

// Half of the buckets of a direction hold one distance each; the others share the distances from
// there to the greatest, so that must be greater.
absl::Status ReadDistances(const json& root, EncoderDecoder& own) {
  LATHE_RETURN_IF_ERROR(ReadInt(root, "relative_attention_num_buckets", own.num_buckets));
  LATHE_RETURN_IF_ERROR(CheckRange("relative_attention_num_buckets", own.num_buckets, 4, 4096));
  LATHE_RETURN_IF_ERROR(ReadInt(root, "relative_attention_max_distance", own.max_distance));
  return CheckRange("relative_attention_max_distance", own.max_distance, own.num_buckets / 2 + 1,
                    1 << 20);
}

// What transformers derives from feed_forward_proj, and reads again from a file that has it.
absl::Status CheckDerived(const json& root, bool gated) {
  bool is_gated = gated;
  LATHE_RETURN_IF_ERROR(ReadBool(root, "is_gated_act", is_gated));
  if (is_gated != gated) return Unsupported("is_gated_act", is_gated, gated ? "true" : "false");
  const char* const expected = gated ? "gelu_new" : "relu";
  const json* activation = FindValue(root, "dense_act_fn");
  if (activation == nullptr || *activation == expected) return absl::OkStatus();
  return Unsupported("dense_act_fn", *activation, absl::StrCat("\"", expected, "\""));
}

absl::Status ReadFeedForward(const json& root, EncoderDecoder& own) {
  const json* kind = FindValue(root, "feed_forward_proj");
  if (kind != nullptr && *kind != "relu" && *kind != "gated-gelu") {
    return Unsupported("feed_forward_proj", *kind,
                       "\"relu\" (T5), \"gated-gelu\" (T5 1.1, Flan-T5)");
  }
  own.gated = kind != nullptr && *kind == "gated-gelu";
  return CheckDerived(root, own.gated);
}

// transformers 5 writes every T5 as tied, and says by scale_decoder_outputs whether it is.
absl::Status ReadTied(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadBool(root, "tie_word_embeddings", config.tie_word_embeddings));
  bool scaled = config.tie_word_embeddings;
  LATHE_RETURN_IF_ERROR(ReadBool(root, "scale_decoder_outputs", scaled));
  if (scaled && !config.tie_word_embeddings) {
    return Unsupported("scale_decoder_outputs", scaled, "false with tie_word_embeddings false");
  }
  config.tie_word_embeddings = scaled;
  return absl::OkStatus();
}

absl::Status Read(const json& root, ModelConfig& config) {
  EncoderDecoder own;
  bool is_both = true;
  LATHE_RETURN_IF_ERROR(ReadBool(root, "is_encoder_decoder", is_both));
  if (!is_both) return Unsupported("is_encoder_decoder", is_both, "true");
  LATHE_RETURN_IF_ERROR(ReadSizes(root, config, own));
  LATHE_RETURN_IF_ERROR(ReadDistances(root, own));
  LATHE_RETURN_IF_ERROR(ReadFeedForward(root, own));
  LATHE_RETURN_IF_ERROR(ReadTied(root, config));
  LATHE_RETURN_IF_ERROR(ReadNumber(root, "layer_norm_epsilon", config.rms_norm_eps));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "decoder_start_token_id", own.start_id));
  LATHE_RETURN_IF_ERROR(
      CheckRange("decoder_start_token_id", own.start_id, 0, config.vocab_size - 1));
  config.encoder_decoder = own;
  return absl::OkStatus();
}

json Write(const ModelConfig& config) {
  const EncoderDecoder& own = *config.encoder_decoder;
  return {{"classifier_dropout", 0.0},
          {"d_ff", config.intermediate_size},
          {"d_kv", config.head_dim},
          {"d_model", config.hidden_size},
          {"decoder_start_token_id", own.start_id},
          {"dropout_rate", 0.0},
          {"feed_forward_proj", own.gated ? "gated-gelu" : "relu"},
          {"initializer_factor", 1.0},
          {"is_encoder_decoder", true},
          {"layer_norm_epsilon", config.rms_norm_eps},
          {"num_decoder_layers", own.num_decoder_layers},
          {"num_heads", config.num_heads},
          {"num_layers", config.num_layers},
          {"relative_attention_max_distance", own.max_distance},
          {"relative_attention_num_buckets", own.num_buckets},
          {"tie_word_embeddings", config.tie_word_embeddings},
          {"torch_dtype", "float32"},
          {"use_cache", true},
          {"vocab_size", config.vocab_size}};
}

void AddFeedForward(const ModelConfig& config, const std::string& module, DecoderLayout& layout) {
  const int64_t hidden = config.hidden_size;
  const int64_t middle = config.intermediate_size;
  if (config.encoder_decoder->gated) {
    layout.linears.push_back({module + ".wi_0", Projection::kGateUp, hidden, middle});
    layout.linears.push_back({module + ".wi_1", Projection::kGateUp, hidden, middle});
  } else {
    layout.linears.push_back({module + ".wi", Projection::kGateUp, hidden, middle});
  }
  // transformers keeps it in 32 bits, whatever the others are (_keep_in_fp32_modules).
  layout.linears.push_back({.name = module + ".wo",
                            .projection = Projection::kDown,
                            .in_features = middle,
                            .out_features = hidden,
                            .never_quantized = true});
}

// What encoder and decoder have alike.
DecoderLayout CommonLayout(const ModelConfig& config, const std::string& stack) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.num_heads * config.head_dim;
  const std::string module = "layer.0.SelfAttention";
  return {.embedding = "shared",
          .layers = stack + ".block",
          .final_norm = stack + ".final_layer_norm",
          .head = "lm_head",
          .input_norm = "layer.0.layer_norm",
          .post_attention_norm = "",
          .query_norm = "",
          .key_norm = "",
          .relative_bias = module + ".relative_attention_bias",
          .linears = {{module + ".q", Projection::kQkv, hidden, inner},
                      {module + ".k", Projection::kQkv, hidden, inner},
                      {module + ".v", Projection::kQkv, hidden, inner},
                      {module + ".o", Projection::kOutput, inner, hidden}}};
}

DecoderLayout EncoderLayout(const ModelConfig& config) {
  DecoderLayout layout = CommonLayout(config, "encoder");
  layout.post_attention_norm = "layer.1.layer_norm";
  AddFeedForward(config, "layer.1.DenseReluDense", layout);
  return layout;
}

DecoderLayout Layout(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.num_heads * config.head_dim;
  const std::string module = "layer.1.EncDecAttention";
  DecoderLayout layout = CommonLayout(config, "decoder");
  layout.embedding_copies = {"encoder.embed_tokens", "decoder.embed_tokens"};
  layout.unused = {"decoder.block.0." + module + ".relative_attention_bias"};  // The first files.
  layout.cross_norm = "layer.1.layer_norm";
  layout.linears.push_back({module + ".q", Projection::kCrossQuery, hidden, inner});
  layout.linears.push_back({module + ".k", Projection::kCrossKeyValue, hidden, inner});
  layout.linears.push_back({module + ".v", Projection::kCrossKeyValue, hidden, inner});
  layout.linears.push_back({module + ".o", Projection::kCrossOutput, inner, hidden});
  layout.post_attention_norm = "layer.2.layer_norm";
  AddFeedForward(config, "layer.2.DenseReluDense", layout);
  return layout;
}

}  // namespace

const ModelFamily kT5Family = {.architecture = "T5ForConditionalGeneration",
                               .model_type = "t5",
                               .gguf = "",
                               .gguf_permutes_rows = false,
                               .defaults = Defaults,
                               .read = Read,
                               .write = Write,
                               .layout = Layout,
                               .encoder_layout = EncoderLayout};

}  // namespace lathe
