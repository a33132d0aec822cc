#include <optional>
#include <set>
#include <unordered_set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "worker/formats/gguf_pre_tokenizer.h"
#include "worker/formats/import_source.h"
#include "worker/formats/strict_json.h"
#include "worker/formats/tokenizer_json.h"

// tokenizer.json as the `tokenizers` crate reads it, from llama.cpp's tokenizer.ggml.* keys.

namespace lathe {
namespace {

using nlohmann::json;

// llama.h, llama_token_type.
constexpr int64_t kUnknown = 2;
constexpr int64_t kControl = 3;
constexpr int64_t kUserDefined = 4;
constexpr int64_t kLastType = 6;

struct Vocabulary {
  std::vector<absl::string_view> tokens;  // By id.
  std::vector<int64_t> types;             // As many.
  std::vector<absl::string_view> merges;  // "left right", best first; only of byte-level BPE.
  std::vector<double> scores;             // Only of SentencePiece.
};

// "gpt2": byte-level BPE. "llama": SentencePiece with BPE.
absl::StatusOr<bool> IsSentencePiece(const GgufFile& file) {
  LATHE_ASSIGN_OR_RETURN(const std::string model, GgufText(file, "tokenizer.ggml.model"));
  if (model == "gpt2" || model == "llama") return model == "llama";
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.ggml.model is ", ShortJson(model),
                   "; supported are \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece)"));
}

// Old files have no name; llama.cpp takes them for "default".
absl::StatusOr<GgufPreTokenizer> PreTokenizerOf(const GgufFile& file) {
  if (!GgufHas(file, "tokenizer.ggml.pre")) return FindGgufPreTokenizer("default");
  LATHE_ASSIGN_OR_RETURN(const std::string name, GgufText(file, "tokenizer.ggml.pre"));
  return FindGgufPreTokenizer(name);
}

absl::Status CheckTokens(const Vocabulary& vocabulary) {
  if (vocabulary.types.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer.ggml.token_type has ", vocabulary.types.size(), " entries; must have ",
        vocabulary.tokens.size(), ", as many as tokenizer.ggml.tokens"));
  }
  for (const int64_t type : vocabulary.types) {
    if (type >= 1 && type <= kLastType) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.ggml.token_type has ", type, "; must be in [1, ", kLastType, "]"));
  }
  return absl::OkStatus();
}

// The crate refuses a merge whose parts or whole are no tokens; say which.
absl::Status CheckMerges(const Vocabulary& vocabulary,
                         const std::unordered_set<std::string>& tokens) {
  const auto known = [&](const std::string& text) { return tokens.count(text) > 0; };
  for (const absl::string_view merge : vocabulary.merges) {
    const size_t space = merge.find(' ');
    const std::string left(merge.substr(0, space));
    const std::string right(space == absl::string_view::npos ? "" : merge.substr(space + 1));
    if (known(left) && known(right) && known(left + right)) continue;
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.merges has \"",
                                                   absl::CHexEscape(merge.substr(0, 80)),
                                                   "\"; must be two tokens that make a third"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Vocabulary> ReadVocabulary(const GgufFile& file, bool is_sentence_piece) {
  Vocabulary vocabulary;
  LATHE_ASSIGN_OR_RETURN(vocabulary.tokens,
                         GgufList<absl::string_view>(file, "tokenizer.ggml.tokens"));
  LATHE_ASSIGN_OR_RETURN(vocabulary.types, GgufList<int64_t>(file, "tokenizer.ggml.token_type"));
  LATHE_RETURN_IF_ERROR(CheckTokens(vocabulary));
  if (is_sentence_piece) {
    LATHE_ASSIGN_OR_RETURN(vocabulary.scores, GgufList<double>(file, "tokenizer.ggml.scores"));
    return vocabulary;
  }
  LATHE_ASSIGN_OR_RETURN(vocabulary.merges,
                         GgufList<absl::string_view>(file, "tokenizer.ggml.merges"));
  std::unordered_set<std::string> tokens;
  for (const absl::string_view token : vocabulary.tokens) {
    if (tokens.emplace(token.data(), token.size()).second) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer.ggml.tokens has \"", absl::CHexEscape(token.substr(0, 80)), "\" twice"));
  }
  LATHE_RETURN_IF_ERROR(CheckMerges(vocabulary, tokens));
  return vocabulary;
}

absl::StatusOr<std::string> Quoted(absl::string_view text, absl::string_view key) {
  std::optional<std::string> quoted = JsonQuoted(text);
  if (quoted) return *std::move(quoted);
  return absl::InvalidArgumentError(
      absl::StrCat(key, " has \"", absl::CHexEscape(text.substr(0, 80)), "\", which is not UTF-8"));
}

std::vector<AddedToken> AddedTokens(const Vocabulary& vocabulary) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int64_t type = vocabulary.types[id];
    if (type != kControl && type != kUserDefined && type != kUnknown) continue;
    const absl::string_view text = vocabulary.tokens[id];
    added.push_back(
        {static_cast<int64_t>(id), std::string(text.data(), text.size()), type != kUserDefined});
  }
  return added;
}

absl::StatusOr<std::string> BytesTokenizerJson(const GgufFile& file, const Vocabulary& vocabulary) {
  LATHE_ASSIGN_OR_RETURN(const GgufPreTokenizer pre, PreTokenizerOf(file));
  for (const absl::string_view token : vocabulary.tokens) {
    LATHE_RETURN_IF_ERROR(Quoted(token, "tokenizer.ggml.tokens").status());
  }
  BpeModel model{.tokens = vocabulary.tokens, .merges = {}, .ignore_merges = pre.ignore_merges};
  for (const absl::string_view merge : vocabulary.merges) {
    LATHE_ASSIGN_OR_RETURN(const std::string text, Quoted(merge, "tokenizer.ggml.merges"));
    absl::StrAppend(&model.merges, model.merges.empty() ? "\n" : ",\n", text);
  }
  TokenizerParts parts;
  parts.added = AddedTokens(vocabulary);
  parts.normalizer = pre.normalizer;
  parts.pre_tokenizer = pre.json;
  parts.decoder =
      R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true})";
  parts.model = BpeModelJson(model);
  return TokenizerJson(parts);
}

absl::StatusOr<bool> AddsBlank(const GgufFile& file) {
  constexpr char kKey[] = "tokenizer.ggml.add_space_prefix";
  const auto found = file.metadata().find(kKey);
  if (found == file.metadata().end()) return true;
  if (const bool* value = std::get_if<bool>(&found->second)) return *value;
  return absl::InvalidArgumentError(absl::StrCat(kKey, " has another type; must be a bool"));
}

absl::StatusOr<std::string> PiecesTokenizerJson(const GgufFile& file,
                                                const Vocabulary& vocabulary) {
  SentencePieceModel model;
  model.is_unigram = false;
  model.byte_fallback = true;
  if (vocabulary.scores.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.ggml.scores has ", vocabulary.scores.size(), " entries; must have ",
                     vocabulary.tokens.size(), ", as many as tokenizer.ggml.tokens"));
  }
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    model.pieces.push_back({vocabulary.tokens[id], static_cast<float>(vocabulary.scores[id]),
                            static_cast<PieceType>(vocabulary.types[id])});
  }
  LATHE_RETURN_IF_ERROR(Annotate(CheckPieces(model), "tokenizer.ggml.tokens"));
  LATHE_ASSIGN_OR_RETURN(const bool adds_blank, AddsBlank(file));
  return PieceTokenizerJson(model, adds_blank ? PieceStyle::kLegacy : PieceStyle::kNever,
                            /*merges_by_score=*/true, {});
}

// -1: not given.
absl::StatusOr<int64_t> SpecialId(const GgufFile& file, const std::string& name, size_t count) {
  const std::string key = absl::StrCat("tokenizer.ggml.", name, "_token_id");
  if (!GgufHas(file, key)) return -1;
  LATHE_ASSIGN_OR_RETURN(const int64_t id, GgufInteger(file, key));
  if (id >= 0 && id < static_cast<int64_t>(count)) return id;
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", id, "; must be in [0, ", count, "), the number of tokens"));
}

absl::StatusOr<std::string> ChatTemplate(const GgufFile& file) {
  LATHE_ASSIGN_OR_RETURN(const std::string text, GgufText(file, "tokenizer.chat_template"));
  if (JsonQuoted(text)) return text;
  return absl::InvalidArgumentError("tokenizer.chat_template is not UTF-8");
}

// {"eos_token": "<|im_end|>", ...}; ids also go into `config`.
absl::StatusOr<json> SpecialTokens(const GgufFile& file, const Vocabulary& vocabulary,
                                   ModelConfig& config) {
  const size_t count = vocabulary.tokens.size();
  LATHE_ASSIGN_OR_RETURN(config.bos_token_id, SpecialId(file, "bos", count));
  LATHE_ASSIGN_OR_RETURN(config.pad_token_id, SpecialId(file, "padding", count));
  LATHE_ASSIGN_OR_RETURN(const int64_t eos, SpecialId(file, "eos", count));
  LATHE_ASSIGN_OR_RETURN(const int64_t unknown, SpecialId(file, "unknown", count));
  if (eos < 0) {
    return absl::InvalidArgumentError("tokenizer.ggml.eos_token_id is missing; must be an id");
  }
  config.eos_token_ids = {eos};
  json tokens = json::object();
  for (const auto& [name, id] :
       {std::pair("bos_token", config.bos_token_id), std::pair("eos_token", eos),
        std::pair("pad_token", config.pad_token_id), std::pair("unk_token", unknown)}) {
    if (id < 0) continue;
    const absl::string_view text = vocabulary.tokens[static_cast<size_t>(id)];
    tokens[name] = std::string(text.data(), text.size());
  }
  return tokens;
}

json GenerationConfig(const ModelConfig& config) {
  json root = {{"eos_token_id", config.eos_token_ids[0]}};
  if (config.bos_token_id >= 0) root["bos_token_id"] = config.bos_token_id;
  if (config.pad_token_id >= 0) root["pad_token_id"] = config.pad_token_id;
  return root;
}

}  // namespace

absl::StatusOr<std::string> TokenizerJsonFromGguf(const GgufFile& file) {
  LATHE_ASSIGN_OR_RETURN(const bool is_sentence_piece, IsSentencePiece(file));
  LATHE_ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(file, is_sentence_piece));
  return is_sentence_piece ? PiecesTokenizerJson(file, vocabulary)
                           : BytesTokenizerJson(file, vocabulary);
}

absl::StatusOr<std::map<std::string, std::string>> TokenizerFilesFromGguf(const GgufFile& file,
                                                                          ModelConfig& config) {
  std::map<std::string, std::string> files;
  LATHE_ASSIGN_OR_RETURN(files["tokenizer.json"], TokenizerJsonFromGguf(file));
  LATHE_ASSIGN_OR_RETURN(const bool is_sentence_piece, IsSentencePiece(file));
  LATHE_ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(file, is_sentence_piece));
  LATHE_ASSIGN_OR_RETURN(const std::string chat_template, ChatTemplate(file));
  LATHE_ASSIGN_OR_RETURN(const json special, SpecialTokens(file, vocabulary, config));
  json tokenizer_config = special;
  tokenizer_config["add_prefix_space"] = false;
  tokenizer_config["chat_template"] = chat_template;
  tokenizer_config["clean_up_tokenization_spaces"] = false;
  tokenizer_config["model_max_length"] = config.max_positions;
  tokenizer_config["tokenizer_class"] = "PreTrainedTokenizerFast";
  files["chat_template.jinja"] = chat_template;
  files["generation_config.json"] = GenerationConfig(config).dump(2) + "\n";
  files["special_tokens_map.json"] = special.dump(2) + "\n";
  files["tokenizer_config.json"] = tokenizer_config.dump(2) + "\n";
  return files;
}

}  // namespace lathe
