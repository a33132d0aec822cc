#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// A SentencePiece model file: google/sentencepiece, src/sentencepiece_model.proto, read without
// protobuf. Bounds: 2^20 pieces of at most 1024 bytes.

namespace lathe {

// The numbers are the file's, and those of tokenizer.ggml.token_type.
enum class PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct Piece {
  absl::string_view text;  // UTF-8.
  float score = 0.0F;      // Finite.
  PieceType type = PieceType::kNormal;
};

struct SentencePieceModel {
  std::vector<Piece> pieces;  // By id.
  bool is_unigram = true;     // Or BPE.
  bool byte_fallback = false;
  int64_t unk_id = 0;
  // The compiled normaliser; empty: none.
  absl::string_view charsmap;
};

// Views are of `bytes`. InvalidArgument: not such a file, or beyond a bound. Unimplemented: a model
// that is neither Unigram nor BPE.
absl::StatusOr<SentencePieceModel> ParseSentencePiece(absl::string_view bytes);

// Not empty, no piece twice, none too long or not UTF-8, scores finite, unk_id in range.
absl::Status CheckPieces(const SentencePieceModel& model);

}  // namespace lathe
