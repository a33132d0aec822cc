#include "worker/formats/sentencepiece.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

constexpr size_t kMaxPieces = size_t{1} << 20;
constexpr size_t kMaxPieceBytes = 1024;
constexpr uint64_t kUnigram = 1;
constexpr uint64_t kBpe = 2;

// One field of a message in protobuf's wire format: a number, or bytes.
struct Field {
  uint64_t number = 0;
  uint64_t value = 0;       // Wire types 0, 1 and 5.
  absl::string_view bytes;  // Wire type 2.
  bool is_bytes = false;
};

absl::Status BrokenError() {
  return absl::InvalidArgumentError(
      "is not a SentencePiece model: a field ends beyond its message");
}

class WireReader {
 public:
  explicit WireReader(absl::string_view bytes) : rest_(bytes) {}

  // None at the end.
  absl::StatusOr<std::optional<Field>> Next() {
    if (rest_.empty()) return std::optional<Field>();
    LATHE_ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    Field field;
    field.number = tag >> 3;
    switch (tag & 7) {
      case 0: {
        LATHE_ASSIGN_OR_RETURN(field.value, Varint());
        return std::optional<Field>(field);
      }
      case 1:
        return Fixed(field, 8);
      case 5:
        return Fixed(field, 4);
      case 2: {
        LATHE_ASSIGN_OR_RETURN(const uint64_t size, Varint());
        if (size > rest_.size()) return BrokenError();
        field.bytes = rest_.substr(0, size);
        field.is_bytes = true;
        rest_.remove_prefix(size);
        return std::optional<Field>(field);
      }
      default:
        return absl::InvalidArgumentError(
            absl::StrCat("is not a SentencePiece model: wire type ", tag & 7));
    }
  }

 private:
  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return BrokenError();
      const auto byte = static_cast<uint8_t>(rest_[0]);
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    return absl::InvalidArgumentError("is not a SentencePiece model: a number of over ten bytes");
  }

  // Little endian, as this machine.
  absl::StatusOr<std::optional<Field>> Fixed(Field field, size_t size) {
    if (size > rest_.size()) return BrokenError();
    std::memcpy(&field.value, rest_.data(), size);
    rest_.remove_prefix(size);
    return std::optional<Field>(field);
  }

  absl::string_view rest_;
};

// Calls `take(field)` for every field.
template <typename Take>
absl::Status ForEachField(absl::string_view bytes, Take take) {
  WireReader reader(bytes);
  while (true) {
    LATHE_ASSIGN_OR_RETURN(const std::optional<Field> field, reader.Next());
    if (!field) return absl::OkStatus();
    LATHE_RETURN_IF_ERROR(take(*field));
  }
}

absl::StatusOr<Piece> ParsePiece(absl::string_view bytes) {
  Piece piece;
  LATHE_RETURN_IF_ERROR(ForEachField(bytes, [&](const Field& field) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) {
      const auto bits = static_cast<uint32_t>(field.value);
      std::memcpy(&piece.score, &bits, sizeof(bits));
    }
    if (field.number == 3) {
      if (field.value < 1 || field.value > 6) {
        return absl::InvalidArgumentError(
            absl::StrCat("has a piece of type ", field.value, "; must be in [1, 6]"));
      }
      piece.type = static_cast<PieceType>(field.value);
    }
    return absl::OkStatus();
  }));
  return piece;
}

absl::Status ParseTrainer(absl::string_view bytes, SentencePieceModel& model) {
  return ForEachField(bytes, [&](const Field& field) {
    if (field.number == 3) {
      if (field.value != kUnigram && field.value != kBpe) {
        return absl::UnimplementedError(absl::StrCat("is a SentencePiece model of type ",
                                                     field.value,
                                                     "; supported are 1 (Unigram) and 2 (BPE)"));
      }
      model.is_unigram = field.value == kUnigram;
    }
    if (field.number == 35) model.byte_fallback = field.value != 0;
    if (field.number == 40) model.unk_id = static_cast<int32_t>(field.value);
    return absl::OkStatus();
  });
}

absl::Status ParseNormalizer(absl::string_view bytes, SentencePieceModel& model) {
  return ForEachField(bytes, [&](const Field& field) {
    if (field.number == 2) model.charsmap = field.bytes;
    return absl::OkStatus();
  });
}

absl::Status CheckPiece(const Piece& piece, size_t id) {
  const std::string what = absl::StrCat("piece ", id);
  if (piece.text.empty() || piece.text.size() > kMaxPieceBytes) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has ", piece.text.size(),
                                                   " bytes; must be in [1, ", kMaxPieceBytes, "]"));
  }
  if (!JsonQuoted(piece.text))
    return absl::InvalidArgumentError(absl::StrCat(what, " is not UTF-8"));
  if (std::isfinite(piece.score)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " has a score that is not finite"));
}

}  // namespace

absl::Status CheckPieces(const SentencePieceModel& model) {
  const size_t count = model.pieces.size();
  if (count == 0 || count > kMaxPieces) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", count, " pieces; must be in [1, ", kMaxPieces, "]"));
  }
  std::unordered_set<std::string> seen;
  for (size_t id = 0; id < count; ++id) {
    const Piece& piece = model.pieces[id];
    LATHE_RETURN_IF_ERROR(CheckPiece(piece, id));
    if (seen.emplace(piece.text.data(), piece.text.size()).second) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("has the piece \"", absl::CHexEscape(piece.text.substr(0, 80)), "\" twice"));
  }
  if (model.unk_id >= 0 && model.unk_id < static_cast<int64_t>(count)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("unk_id is ", model.unk_id, "; must be in [0, ", count, ")"));
}

absl::StatusOr<SentencePieceModel> ParseSentencePiece(absl::string_view bytes) {
  SentencePieceModel model;
  LATHE_RETURN_IF_ERROR(ForEachField(bytes, [&](const Field& field) -> absl::Status {
    if (field.number < 1 || field.number > 3) return absl::OkStatus();
    if (!field.is_bytes) {
      return absl::InvalidArgumentError("is not a SentencePiece model: a message is a number");
    }
    if (field.number == 2) return ParseTrainer(field.bytes, model);
    if (field.number == 3) return ParseNormalizer(field.bytes, model);
    if (model.pieces.size() >= kMaxPieces) return CheckPieces(model);
    LATHE_ASSIGN_OR_RETURN(const Piece piece, ParsePiece(field.bytes));
    model.pieces.push_back(piece);
    return absl::OkStatus();
  }));
  LATHE_RETURN_IF_ERROR(CheckPieces(model));
  return model;
}

}  // namespace lathe
