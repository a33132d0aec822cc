#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/formats/gguf_writer.h"
#include "worker/formats/model_config.h"
#include "worker/formats/sentencepiece.h"

// The tokenizer of a canonical folder as llama.cpp's tokenizer.* keys. Source: llama.cpp,
// conversion/base.py, get_vocab_base; gguf-py/gguf/vocab.py, SpecialVocab. Only for .cc files of
// this folder.

namespace lathe {

// From tokenizer.json, tokenizer_config.json and the template: byte-level BPE becomes a vocabulary
// of the model "gpt2", BPE of pieces with bytes to fall back on one of "llama". Ids without a token
// are filled up to the vocabulary of `config`. `is_llama`: of general.architecture.
// Unimplemented: a tokenizer that GGUF has no form for, with the part that is to blame, because a
// file that gives other ids would answer worse without a word.
absl::StatusOr<std::vector<GgufEntry>> GgufVocabulary(const std::filesystem::path& dir,
                                                      const ModelConfig& config, bool is_llama);

struct GgufToken {
  std::string text;
  PieceType type = PieceType::kUnused;
};

// The pieces of a BPE model in the order of ids with their types, as SentencePiece's scores: the
// sooner two parts are merged the higher the score of the whole, 0 for the first. With them every
// reader merges as tokenizer.json says. Unimplemented: merges that no scores give, or another way
// to treat blanks than a blank before every text, or none.
struct GgufPieces {
  std::vector<float> scores;
  bool blank_before_text = false;
};
absl::StatusOr<GgufPieces> ScorePieces(const nlohmann::json& tokenizer,
                                       const std::vector<GgufToken>& tokens);

// The two parts of a member of model.merges, "a b" or ["a", "b"].
absl::StatusOr<std::pair<std::string, std::string>> MergeParts(const nlohmann::json& merge);

}  // namespace lathe
