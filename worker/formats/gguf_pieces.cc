#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/formats/gguf_vocabulary.h"
#include "worker/formats/strict_json.h"

// SentencePiece merges the two neighbours whose whole has the highest score, and so does llama.cpp
// (llama-vocab.cpp, llm_tokenizer_spm); tokenizer.json lists pairs, best first. Both are the same
// if the pairs are all those that make a piece, and the pairs of one piece stand together.

namespace lathe {
namespace {

using nlohmann::json;

constexpr char kBlank[] = "\xE2\x96\x81";  // U+2581, a blank in a piece.
constexpr float kUnusedScore = -10000;     // conversion/base.py, _create_vocab_sentencepiece.
constexpr float kAddedScore = -1000;

using Ids = std::unordered_map<std::string, size_t>;

// llama.cpp puts a blank before every text, or before none.
absl::StatusOr<bool> BlankBeforeText(const json& tokenizer) {
  const json normalizer = tokenizer.value("normalizer", json());
  const json pre = tokenizer.value("pre_tokenizer", json());
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kBlank}};
  const json prepend = {{"type", "Prepend"}, {"prepend", kBlank}};
  const json always = {{"type", "Sequence"}, {"normalizers", {prepend, replace}}};
  const json never = {{"type", "Metaspace"},
                      {"replacement", kBlank},
                      {"prepend_scheme", "never"},
                      {"split", false}};
  if (pre.is_null() && normalizer == always) return true;
  if (pre.is_null() && normalizer == replace) return false;
  if (normalizer.is_null() && pre == never) return false;
  return absl::UnimplementedError(absl::StrCat(
      "tokenizer.json: normalizer is ", ShortJson(normalizer), " and pre_tokenizer ",
      ShortJson(pre), "; GGUF has a form for pieces with a blank before every text (normalizers ",
      "Prepend and Replace), and with none (Metaspace with prepend_scheme never, no split)"));
}

absl::Status NoScoresError(const std::string& what) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: model.merges ", what,
                                               "; GGUF has scores instead, which cannot say that"));
}

size_t NextCharacter(const std::string& text, size_t at) {
  const auto lead = static_cast<uint8_t>(text[at]);
  return at + (lead < 0x80 ? 1U : lead < 0xE0 ? 2U : lead < 0xF0 ? 3U : 4U);
}

// How many pairs of tokens make a third.
size_t CountPairs(const std::vector<GgufToken>& tokens, const Ids& ids) {
  size_t count = 0;
  for (const GgufToken& token : tokens) {
    const std::string& text = token.text;
    for (size_t at = NextCharacter(text, 0); at < text.size(); at = NextCharacter(text, at)) {
      if (ids.count(text.substr(0, at)) > 0 && ids.count(text.substr(at)) > 0) ++count;
    }
  }
  return count;
}

// Gives each whole its place in the order of the merges.
absl::Status ScoreMerges(const json& merges, const Ids& ids, std::vector<float>& scores,
                         std::vector<bool>& scored) {
  std::unordered_set<std::string> pairs;
  size_t last = scores.size();
  float next = 0;
  for (const json& merge : merges) {
    LATHE_ASSIGN_OR_RETURN(const auto parts, MergeParts(merge));
    const auto whole = ids.find(parts.first + parts.second);
    if (whole == ids.end() || ids.count(parts.first) == 0 || ids.count(parts.second) == 0 ||
        !pairs.insert(absl::StrCat(parts.first, " ", parts.second)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.json: model.merges has ", ShortJson(merge),
                       "; must be two tokens that make a third, each pair once"));
    }
    if (whole->second == last) continue;
    last = whole->second;
    if (scored[last]) {
      return NoScoresError(
          absl::StrCat("has others between the pairs of ", ShortJson(parts.first + parts.second)));
    }
    scored[last] = true;
    scores[last] = next--;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::pair<std::string, std::string>> MergeParts(const json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  const std::string text = merge.is_string() ? merge.get<std::string>() : "";
  const size_t space = text.find(' ');
  if (space != std::string::npos) return std::pair(text.substr(0, space), text.substr(space + 1));
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.json: model.merges has ", ShortJson(merge), "; must be two tokens"));
}

absl::StatusOr<GgufPieces> ScorePieces(const json& tokenizer,
                                       const std::vector<GgufToken>& tokens) {
  GgufPieces pieces;
  LATHE_ASSIGN_OR_RETURN(pieces.blank_before_text, BlankBeforeText(tokenizer));
  Ids ids;
  for (size_t id = 0; id < tokens.size(); ++id) ids.emplace(tokens[id].text, id);
  pieces.scores.assign(tokens.size(), kUnusedScore);
  std::vector<bool> scored(tokens.size(), false);
  const json& merges = tokenizer.at("model").at("merges");
  LATHE_RETURN_IF_ERROR(ScoreMerges(merges, ids, pieces.scores, scored));
  const size_t num_pairs = CountPairs(tokens, ids);
  if (num_pairs != merges.size()) {
    return NoScoresError(
        absl::StrCat("has ", merges.size(), " of the ", num_pairs, " pairs that make a token"));
  }
  auto next = -static_cast<float>(std::count(scored.begin(), scored.end(), true));
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (scored[id] || tokens[id].type == PieceType::kUnused) continue;
    const bool added =
        tokens[id].type == PieceType::kControl || tokens[id].type == PieceType::kUserDefined;
    pieces.scores[id] = added ? kAddedScore : tokens[id].type == PieceType::kNormal ? next-- : 0;
  }
  return pieces;
}

}  // namespace lathe
