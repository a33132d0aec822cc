#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/model_config.h"

// The families of models. Adding one is a file family_NAME.cc, its line here and its line in
// model_family.cc. Only for .cc files of this folder.

namespace lathe {

struct ModelFamily {
  absl::string_view architecture;  // In config.json: "LlamaForCausalLM".
  absl::string_view model_type;    // "llama".
  absl::string_view gguf;          // general.architecture. Empty: no GGUF of it is read.
  // As what it is written where that is another family's. Empty, as is `gguf`: there is no form.
  absl::string_view gguf_written_as = "";
  // llama.cpp stores the rows of this family's q and k in another order (gguf_source.cc).
  bool gguf_permutes_rows = false;
  // transformers' defaults for what a file may leave out; num_kv_heads or head_dim 0: derived.
  ModelConfig (*defaults)() = nullptr;
  // All of config.json but the special token ids and what ValidateModelConfig checks. `config`
  // comes with the defaults.
  absl::Status (*read)(const nlohmann::json& root, ModelConfig& config) = nullptr;
  // config.json without special token ids, architectures and model_type.
  nlohmann::json (*write)(const ModelConfig& config) = nullptr;
  DecoderLayout (*layout)(const ModelConfig& config) = nullptr;
  // Of an encoder-decoder, whose `read` sets config.encoder_decoder. Null: a decoder alone.
  DecoderLayout (*encoder_layout)(const ModelConfig& config) = nullptr;
};

extern const ModelFamily kChatGlmFamily;  // ChatGLM3.
extern const ModelFamily kLlamaFamily;    // Llama 2 and 3, SmolLM2.
extern const ModelFamily kMistralFamily;  // Mistral 7B and others of MistralForCausalLM.
extern const ModelFamily kQwen2Family;    // Qwen2, Qwen2.5.
extern const ModelFamily kQwen3Family;    // Qwen3, dense.
extern const ModelFamily kT5Family;       // T5, Flan-T5.

// Null: there is none.
const ModelFamily* FindFamily(absl::string_view architecture);
const ModelFamily* FindFamilyOfGguf(absl::string_view general_architecture);
// The one as which a GGUF of `family` is written; null: there is no form for it.
const ModelFamily* GgufFormOf(const ModelFamily& family);
// For messages: "LlamaForCausalLM, MistralForCausalLM, ...".
std::string SupportedArchitectures();
// Of those that have a form in GGUF: "LlamaForCausalLM, ...".
std::string GgufWritableArchitectures();
// "\"llama\", \"qwen2\", ...".
std::string SupportedGgufArchitectures();

}  // namespace lathe
