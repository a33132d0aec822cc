#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/formats/sentencepiece.h"

// Writes tokenizer.json as the `tokenizers` crate reads it. Only for .cc files of this folder.

namespace lathe {

// Found in text before anything else; special ones are left out when decoding.
struct AddedToken {
  int64_t id = 0;
  std::string text;  // UTF-8.
  bool special = true;
};

// Parts of the file as JSON. `added` in ascending order of ids.
struct TokenizerParts {
  std::vector<AddedToken> added;
  std::string normalizer = "null";
  std::string pre_tokenizer = "null";
  std::string post_processor = "null";
  std::string decoder = "null";
  std::string model;
};
std::string TokenizerJson(const TokenizerParts& parts);

// "model" of a BPE tokenizer; the caller has checked that all is UTF-8 and nothing stands twice.
struct BpeModel {
  std::vector<absl::string_view> tokens;  // By id.
  std::string merges;                     // Members of the list, with commas.
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
};
std::string BpeModelJson(const BpeModel& model);

// How the blanks of a text become pieces.
enum class PieceStyle {
  kFirst,   // transformers 5, LlamaTokenizer: a blank before the text.
  kAlways,  // The same with `legacy`: a blank after special tokens too.
  kNever,   // The same with add_prefix_space false.
  kLegacy,  // Mistral's and Llama 2's own tokenizer.json, llama.cpp: like kAlways, by a normaliser.
  kT5,      // Words are split at blanks.
};

// A tokenizer of pieces. BPE merges by id, or with `merges_by_score` by score, as transformers does
// for SentencePiece files and for GGUF. `extra`: tokens that follow the pieces, in order of ids.
// Unimplemented: a style that does not fit the kind of model.
absl::StatusOr<std::string> PieceTokenizerJson(const SentencePieceModel& model, PieceStyle style,
                                               bool merges_by_score,
                                               const std::vector<AddedToken>& extra);

// The same from a SentencePiece file of a Hugging Face folder, in the manner of `tokenizer_class`
// of tokenizer_config.json, as transformers 5 converts it. `legacy`, `add_prefix_space` and
// `extra_ids` are that file's. Unimplemented: another class; the message lists those that are.
struct SentencePieceOptions {
  std::string tokenizer_class;
  bool legacy = false;
  bool add_prefix_space = true;
  int64_t extra_ids = 100;  // Of T5.
};
absl::StatusOr<std::string> TokenizerJsonFromSentencePiece(absl::string_view bytes,
                                                           const SentencePieceOptions& options);

}  // namespace lathe
