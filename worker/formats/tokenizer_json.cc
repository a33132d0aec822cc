#include "worker/formats/tokenizer_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

constexpr absl::string_view kBlank = "\xE2\x96\x81";  // U+2581, a blank in a piece.

std::string Quoted(absl::string_view text) { return JsonQuoted(text).value_or("\"\""); }

std::string AddedTokensJson(const std::vector<AddedToken>& tokens) {
  std::vector<std::string> members;
  for (const AddedToken& token : tokens) {
    members.push_back(absl::StrCat("{\"id\":", token.id, ",\"content\":", Quoted(token.text),
                                   ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                                   "\"normalized\":false,\"special\":",
                                   token.special ? "true" : "false", "}"));
  }
  return absl::StrJoin(members, ",\n");
}

size_t CharacterBytes(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// Two pieces that make a third.
struct Merge {
  size_t whole;
  size_t left;
  size_t right;
  size_t left_length;  // In characters.
  size_t right_length;
};

using PieceIds = std::unordered_map<std::string, size_t>;

void AddMerges(const SentencePieceModel& model, const PieceIds& ids, size_t whole,
               std::vector<Merge>& merges) {
  const absl::string_view text = model.pieces[whole].text;
  const size_t first = merges.size();
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text[at])) ++length;
  size_t left_length = 0;
  for (size_t at = 0; at < text.size();) {
    at += CharacterBytes(text[at]);
    ++left_length;
    if (at >= text.size()) break;
    const auto left = ids.find(std::string(text.substr(0, at)));
    const auto right = ids.find(std::string(text.substr(at)));
    if (left == ids.end() || right == ids.end()) continue;
    merges.push_back({whole, left->second, right->second, left_length, length - left_length});
  }
  std::sort(merges.begin() + static_cast<std::ptrdiff_t>(first), merges.end(),
            [](const Merge& a, const Merge& b) {
              return std::pair(a.left, a.right) < std::pair(b.left, b.right);
            });
}

// transformers, tokenization_utils_base.py, generate_merges: by the whole's rank, then short parts
// first; by score all of it the other way round. Stable.
std::vector<Merge> FindMerges(const SentencePieceModel& model, bool by_score) {
  PieceIds ids;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    ids.emplace(std::string(model.pieces[id].text), id);
  }
  std::vector<Merge> merges;
  for (size_t id = 0; id < model.pieces.size(); ++id) AddMerges(model, ids, id, merges);
  const auto key = [&](const Merge& merge) {
    const double rank = by_score ? -static_cast<double>(model.pieces[merge.whole].score)
                                 : static_cast<double>(merge.whole);
    const auto left = static_cast<int64_t>(merge.left_length);
    const auto right = static_cast<int64_t>(merge.right_length);
    return std::tuple(rank, by_score ? -left : left, by_score ? -right : right);
  };
  std::stable_sort(merges.begin(), merges.end(),
                   [&](const Merge& a, const Merge& b) { return key(a) < key(b); });
  return merges;
}

std::string MergesJson(const SentencePieceModel& model, bool by_score) {
  std::string out;
  for (const Merge& merge : FindMerges(model, by_score)) {
    absl::StrAppend(&out, out.empty() ? "\n[" : ",\n[", Quoted(model.pieces[merge.left].text), ",",
                    Quoted(model.pieces[merge.right].text), "]");
  }
  return out;
}

std::string UnigramModelJson(const SentencePieceModel& model,
                             const std::vector<AddedToken>& extra) {
  std::string out =
      absl::StrCat("{\"type\":\"Unigram\",\"unk_id\":", model.unk_id,
                   ",\"byte_fallback\":", model.byte_fallback ? "true" : "false", ",\n\"vocab\":[");
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    absl::StrAppend(&out, id == 0 ? "\n[" : ",\n[", Quoted(piece.text), ",",
                    nlohmann::json(static_cast<double>(piece.score)).dump(), "]");
  }
  for (const AddedToken& token : extra) absl::StrAppend(&out, ",\n[", Quoted(token.text), ",0.0]");
  return out + "]}";
}

std::string Metaspace(absl::string_view scheme, bool split) {
  return absl::StrCat("{\"type\":\"Metaspace\",\"replacement\":\"", kBlank,
                      "\",\"prepend_scheme\":\"", scheme, "\",\"split\":", split ? "true" : "false",
                      "}");
}

std::string LlamaDecoder(bool strips_blank) {
  return absl::StrCat(
      "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"",
      kBlank, "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}",
      strips_blank ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}" : "", "]}");
}

void SetStyle(PieceStyle style, absl::string_view charsmap, TokenizerParts& parts) {
  switch (style) {
    case PieceStyle::kFirst:
      parts.pre_tokenizer = Metaspace("first", false);
      break;
    case PieceStyle::kAlways:
      parts.pre_tokenizer = Metaspace("always", false);
      break;
    case PieceStyle::kNever:
      parts.pre_tokenizer = Metaspace("never", false);
      break;
    case PieceStyle::kLegacy:
      parts.normalizer = absl::StrCat(
          "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"", kBlank,
          "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"", kBlank,
          "\"}]}");
      break;
    case PieceStyle::kT5:
      if (!charsmap.empty()) {
        parts.normalizer = absl::StrCat("{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"",
                                        absl::Base64Escape(charsmap), "\"}");
      }
      parts.pre_tokenizer =
          absl::StrCat("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},",
                       Metaspace("always", true), "]}");
      parts.decoder = Metaspace("always", true);
      return;
  }
  parts.decoder = LlamaDecoder(style != PieceStyle::kNever);
}

std::vector<AddedToken> AddedPieces(const SentencePieceModel& model,
                                    const std::vector<AddedToken>& extra) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    const bool is_special = piece.type == PieceType::kControl || piece.type == PieceType::kUnknown;
    if (!is_special && piece.type != PieceType::kUserDefined) continue;
    added.push_back({static_cast<int64_t>(id), std::string(piece.text), is_special});
  }
  added.insert(added.end(), extra.begin(), extra.end());
  return added;
}

std::vector<AddedToken> Numbered(const std::vector<std::string>& texts, size_t first_id) {
  std::vector<AddedToken> tokens;
  for (const std::string& text : texts) {
    tokens.push_back({static_cast<int64_t>(first_id + tokens.size()), text, true});
  }
  return tokens;
}

// The last sentinel has the least id.
absl::StatusOr<std::vector<AddedToken>> Sentinels(int64_t count, size_t first_id) {
  constexpr int64_t kMaxExtraIds = 10000;
  if (count < 0 || count > kMaxExtraIds) {
    return absl::InvalidArgumentError(
        absl::StrCat("extra_ids is ", count, "; must be in [0, ", kMaxExtraIds, "]"));
  }
  std::vector<std::string> texts;
  for (int64_t i = count - 1; i >= 0; --i) texts.push_back(absl::StrCat("<extra_id_", i, ">"));
  return Numbered(texts, first_id);
}

}  // namespace

std::string TokenizerJson(const TokenizerParts& parts) {
  return absl::StrCat(
      "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n", "\"added_tokens\":[",
      AddedTokensJson(parts.added), "],\n\"normalizer\":", parts.normalizer,
      ",\n\"pre_tokenizer\":", parts.pre_tokenizer, ",\n\"post_processor\":", parts.post_processor,
      ",\n\"decoder\":", parts.decoder, ",\n\"model\":", parts.model, "}\n");
}

// Written piece by piece: a JSON object in the order of ids would cost quadratic time.
std::string BpeModelJson(const BpeModel& model) {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  std::string out = absl::StrCat(
      "{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
      "\"end_of_word_suffix\":null,\"fuse_unk\":",
      flag(model.fuse_unk), ",\"byte_fallback\":", flag(model.byte_fallback),
      ",\"ignore_merges\":", flag(model.ignore_merges), ",\n\"vocab\":{");
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    absl::StrAppend(&out, id == 0 ? "\n" : ",\n", Quoted(model.tokens[id]), ":", id);
  }
  return absl::StrCat(out, "},\n\"merges\":[", model.merges, "]}");
}

absl::StatusOr<std::string> PieceTokenizerJson(const SentencePieceModel& model, PieceStyle style,
                                               bool merges_by_score,
                                               const std::vector<AddedToken>& extra) {
  if (model.is_unigram != (style == PieceStyle::kT5)) {
    return absl::UnimplementedError(absl::StrCat("is a ", model.is_unigram ? "Unigram" : "BPE",
                                                 " model; its tokenizer_class needs ",
                                                 model.is_unigram ? "BPE" : "Unigram"));
  }
  TokenizerParts parts;
  parts.added = AddedPieces(model, extra);
  SetStyle(style, model.charsmap, parts);
  if (model.is_unigram) {
    parts.model = UnigramModelJson(model, extra);
    return TokenizerJson(parts);
  }
  BpeModel bpe{.tokens = {}, .merges = MergesJson(model, merges_by_score)};
  for (const Piece& piece : model.pieces) bpe.tokens.push_back(piece.text);
  bpe.fuse_unk = true;
  bpe.byte_fallback = true;
  parts.model = BpeModelJson(bpe);
  return TokenizerJson(parts);
}

absl::StatusOr<std::string> TokenizerJsonFromSentencePiece(absl::string_view bytes,
                                                           const SentencePieceOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const SentencePieceModel model, ParseSentencePiece(bytes));
  const std::string& name = options.tokenizer_class;
  if (name == "LlamaTokenizer" || name == "LlamaTokenizerFast") {
    const PieceStyle with_blank = options.legacy ? PieceStyle::kAlways : PieceStyle::kFirst;
    return PieceTokenizerJson(model, options.add_prefix_space ? with_blank : PieceStyle::kNever,
                              /*merges_by_score=*/false, {});
  }
  if (name == "ChatGLMTokenizer") {
    // THUDM/chatglm3-6b, tokenization_chatglm.py, SPTokenizer.
    return PieceTokenizerJson(model, PieceStyle::kLegacy, /*merges_by_score=*/false,
                              Numbered({"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>",
                                        "<|user|>", "<|assistant|>", "<|observation|>"},
                                       model.pieces.size()));
  }
  if (name == "T5Tokenizer" || name == "T5TokenizerFast") {
    LATHE_ASSIGN_OR_RETURN(const std::vector<AddedToken> sentinels,
                           Sentinels(options.extra_ids, model.pieces.size()));
    return PieceTokenizerJson(model, PieceStyle::kT5, /*merges_by_score=*/false, sentinels);
  }
  return absl::UnimplementedError(absl::StrCat(
      "is a SentencePiece model without tokenizer.json, and tokenizer_class is ", ShortJson(name),
      "; supported are ChatGLMTokenizer, LlamaTokenizer, LlamaTokenizerFast, T5Tokenizer and "
      "T5TokenizerFast"));
}

}  // namespace lathe
