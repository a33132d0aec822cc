#include "worker/formats/gguf_vocabulary.h"

#include <optional>
#include <unordered_set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/gguf_pre_tokenizer.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{256} << 20;

absl::Status Fault(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", what));
}

absl::Status NoForm(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: ", what));
}

absl::StatusOr<json> ReadObject(const std::filesystem::path& dir, const char* name) {
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir / name, kMaxFileBytes));
  return ParseStrictObject(text, name);
}

// transformers also takes tokens of this look for special ones (does_token_look_special).
bool LooksSpecial(const std::string& text) {
  const auto between = [&](const char* begin, const char* end) {
    return absl::StartsWith(text, begin) && absl::EndsWith(text, end);
  };
  return text == "<pad>" || text == "<mask>" || text == "<2mass>" || text == "[@BOS@]" ||
         between("<|", "|>") || between("<\xEF\xBD\x9C", "\xEF\xBD\x9C>") ||
         between("<unused", ">");
}

bool IsByte(const std::string& text) {
  return text.size() == 6 && absl::StartsWith(text, "<0x") && text[5] == '>' &&
         text.find_first_not_of("0123456789ABCDEFabcdef", 3) == 5;
}

class TokenTable {
 public:
  explicit TokenTable(int64_t size) : tokens_(static_cast<size_t>(size)), used_(tokens_.size()) {}

  absl::Status Put(const json& id, const std::string& text, PieceType type) {
    const auto size = static_cast<int64_t>(tokens_.size());
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= size) {
      return Fault(absl::StrCat("the token ", ShortJson(text), " has the id ", ShortJson(id),
                                "; must be in [0, ", size, "), the vocabulary of the model"));
    }
    const auto index = static_cast<size_t>(id.get<int64_t>());
    if (used_[index] && tokens_[index].text != text) {
      return Fault(absl::StrCat("the id ", index, " has the tokens ",
                                ShortJson(tokens_[index].text), " and ", ShortJson(text)));
    }
    used_[index] = true;
    tokens_[index] = {text, type};
    return absl::OkStatus();
  }

  // The gaps are filled.
  std::vector<GgufToken> Take() {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (!used_[i]) tokens_[i] = {absl::StrCat("[PAD", i, "]"), PieceType::kUnused};
    }
    return std::move(tokens_);
  }

 private:
  std::vector<GgufToken> tokens_;
  std::vector<bool> used_;
};

// The sides of an added token, where llama.cpp looks for its text alone.
absl::Status CheckAdded(const json& token) {
  if (!token.is_object() || !token.contains("id") || !token.value("content", json()).is_string()) {
    return Fault(absl::StrCat("added_tokens has ", ShortJson(token), "; must have id and content"));
  }
  for (const char* side : {"lstrip", "rstrip", "single_word"}) {
    if (token.value(side, json(false)) == false) continue;
    return NoForm(absl::StrCat("the added token ", ShortJson(token["content"]), " has ", side,
                               "; GGUF has a form for added tokens without it"));
  }
  return absl::OkStatus();
}

absl::Status AddAdded(const json& tokenizer, bool is_pieces, TokenTable& table) {
  const json unknown = tokenizer.at("model").value("unk_token", json());
  for (const json& token : tokenizer.value("added_tokens", json::array())) {
    LATHE_RETURN_IF_ERROR(CheckAdded(token));
    const std::string& text = token["content"].get_ref<const std::string&>();
    const bool special = token.value("special", json(false)) == true || LooksSpecial(text);
    const PieceType type = is_pieces && token["content"] == unknown ? PieceType::kUnknown
                           : special                                ? PieceType::kControl
                                                                    : PieceType::kUserDefined;
    LATHE_RETURN_IF_ERROR(table.Put(token["id"], text, type));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<GgufToken>> ReadTokens(const json& tokenizer, bool is_pieces,
                                                  int64_t vocab_size) {
  TokenTable table(vocab_size);
  const json& model = tokenizer["model"];
  const auto unk = model.find("unk_token");  // A string, null, or not there.
  const bool has_unknown = unk != model.end() && unk->is_string();
  const std::string unknown = has_unknown ? unk->get<std::string>() : "";
  for (const auto& [text, id] : model["vocab"].items()) {
    const bool is_unknown = has_unknown && text == unknown;
    const PieceType type = !is_pieces     ? PieceType::kNormal
                           : IsByte(text) ? PieceType::kByte
                           : is_unknown   ? PieceType::kUnknown
                                          : PieceType::kNormal;
    LATHE_RETURN_IF_ERROR(table.Put(id, text, type));
  }
  LATHE_RETURN_IF_ERROR(AddAdded(tokenizer, is_pieces, table));
  std::vector<GgufToken> tokens = table.Take();
  std::unordered_set<std::string> texts;
  for (const GgufToken& token : tokens) {
    if (!token.text.empty() && texts.insert(token.text).second) continue;
    return Fault(absl::StrCat("has the token ", ShortJson(token.text), " under two ids, or empty"));
  }
  return tokens;
}

// A BPE model that llama.cpp's two know the rules of.
absl::Status CheckModel(const json& tokenizer) {
  const json model = tokenizer.value("model", json());
  if (!model.is_object() || model.value("type", json("BPE")) != "BPE") {
    const json type = model.is_object() ? model["type"] : json();
    return NoForm(absl::StrCat("model.type is ", ShortJson(type), "; GGUF has a form for \"BPE\""));
  }
  if (!model.contains("vocab") || !model["vocab"].is_object() || !model.contains("merges") ||
      !model["merges"].is_array()) {
    return Fault("model has no vocab or no merges");
  }
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const json value = model.value(key, json());
    if (value.is_null() || value == "") continue;
    return NoForm(
        absl::StrCat("model.", key, " is ", ShortJson(value), "; GGUF has a form for null"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Merges(const json& model) {
  std::vector<std::string> merges;
  for (const json& merge : model["merges"]) {
    LATHE_ASSIGN_OR_RETURN(const auto parts, MergeParts(merge));
    if (absl::StrContains(parts.first, ' ') || absl::StrContains(parts.second, ' ')) {
      return NoForm(absl::StrCat("model.merges has ", ShortJson(merge),
                                 "; GGUF has a form for parts without a blank"));
    }
    merges.push_back(absl::StrCat(parts.first, " ", parts.second));
  }
  return merges;
}

// Which tokens encoding puts around a text; none: not said.
struct Surrounding {
  std::optional<bool> bos;
  std::optional<bool> eos;
};

std::string SpecialTokenOf(const json& piece) {
  const json special = piece.is_object() ? piece.value("SpecialToken", json()) : json();
  const json id = special.is_object() ? special.value("id", json()) : json();
  return id.is_string() ? id.get<std::string>() : "";
}

absl::Status ReadTemplate(const json& processor, const json& bos, const json& eos,
                          Surrounding& around) {
  const json single = processor.value("single", json());
  if (!single.is_array() || single.empty()) return Fault("post_processor has no single template");
  const std::string first = single.size() > 1 ? SpecialTokenOf(single.front()) : "";
  const std::string last = single.size() > 1 ? SpecialTokenOf(single.back()) : "";
  around.bos = !first.empty();
  around.eos = !last.empty();
  const size_t known = 1U + (first.empty() ? 0U : 1U) + (last.empty() ? 0U : 1U);
  if (single.size() == known && (first.empty() || bos == first) && (last.empty() || eos == last)) {
    return absl::OkStatus();
  }
  return NoForm(absl::StrCat("post_processor is ", ShortJson(single),
                             "; GGUF has a form for bos_token before and eos_token after a text"));
}

absl::Status ReadProcessor(const json& processor, const json& bos, const json& eos,
                           Surrounding& around) {
  const json type = processor.is_object() ? processor.value("type", json()) : json();
  if (type == "TemplateProcessing") return ReadTemplate(processor, bos, eos, around);
  if (type == "ByteLevel") {  // Only offsets.
    if (!around.bos) around.bos = false;
    if (!around.eos) around.eos = false;
    return absl::OkStatus();
  }
  const json members = type == "Sequence" ? processor.value("processors", json()) : json();
  if (!members.is_array()) {
    return NoForm(absl::StrCat("post_processor is ", ShortJson(processor),
                               "; GGUF has a form for TemplateProcessing and ByteLevel"));
  }
  for (const json& member : members) {
    if (member.is_object() && member.value("type", json()) == "Sequence") {
      return Fault("post_processor is nested");
    }
    LATHE_RETURN_IF_ERROR(ReadProcessor(member, bos, eos, around));
  }
  return absl::OkStatus();
}

// The text of "bos_token" and the like: a string, or an added token.
json TokenText(const json& tokenizer_config, const std::string& name) {
  const json value = tokenizer_config.value(name, json());
  return value.is_object() ? value.value("content", json()) : value;
}

absl::StatusOr<Surrounding> ReadSurrounding(const json& tokenizer, const json& tokenizer_config) {
  Surrounding around;
  const json processor = tokenizer.value("post_processor", json());
  if (!processor.is_null()) {
    LATHE_RETURN_IF_ERROR(ReadProcessor(processor, TokenText(tokenizer_config, "bos_token"),
                                        TokenText(tokenizer_config, "eos_token"), around));
  }
  const auto fill = [&](const char* key, std::optional<bool>& value) {
    const json given = tokenizer_config.value(key, json());
    if (!value && given.is_boolean()) value = given.get<bool>();
  };
  fill("add_bos_token", around.bos);
  fill("add_eos_token", around.eos);
  return around;
}

// The id of an added token; -1: there is none.
int64_t IdOfAdded(const json& tokenizer, const json& text) {
  if (!text.is_string()) return -1;
  for (const json& token : tokenizer.value("added_tokens", json::array())) {
    if (token["content"] == text) return token["id"].get<int64_t>();
  }
  return -1;
}

// By the name in tokenizer_config.json, otherwise by the id in config.json.
void AddSpecialIds(const json& tokenizer, const json& tokenizer_config, const ModelConfig& config,
                   std::vector<GgufEntry>& entries) {
  const int64_t eos = config.eos_token_ids.size() == 1 ? config.eos_token_ids[0] : -1;
  struct Special {
    const char* ours;
    const char* theirs;
    int64_t id;
  };
  for (const Special& special :
       {Special{"bos", "bos", config.bos_token_id}, Special{"eos", "eos", eos},
        Special{"unk", "unknown", -1}, Special{"sep", "seperator", -1},
        Special{"pad", "padding", config.pad_token_id}, Special{"mask", "mask", -1}}) {
    const json text = TokenText(tokenizer_config, absl::StrCat(special.ours, "_token"));
    const int64_t named = IdOfAdded(tokenizer, text);
    const int64_t id = named >= 0 ? named : special.id;
    if (id < 0) continue;
    entries.push_back(
        {absl::StrCat("tokenizer.ggml.", special.theirs, "_token_id"), static_cast<uint32_t>(id)});
  }
}

void AddTokens(const std::vector<GgufToken>& tokens, std::vector<GgufEntry>& entries) {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
  for (const GgufToken& token : tokens) {
    texts.push_back(token.text);
    types.push_back(static_cast<int32_t>(token.type));
  }
  entries.push_back({"tokenizer.ggml.tokens", std::move(texts)});
  entries.push_back({"tokenizer.ggml.token_type", std::move(types)});
}

// Nothing to llama.cpp, but its converter writes it.
void AddPrefixSpace(const json& tokenizer_config, std::vector<GgufEntry>& entries) {
  const json given = tokenizer_config.value("add_prefix_space", json());
  if (!given.is_boolean()) return;
  entries.push_back({"tokenizer.ggml.add_space_prefix", given.get<bool>()});
}

absl::Status AddBytes(const json& tokenizer, std::vector<GgufEntry>& entries) {
  LATHE_ASSIGN_OR_RETURN(std::string name, NameGgufPreTokenizer(tokenizer));
  LATHE_ASSIGN_OR_RETURN(std::vector<std::string> merges, Merges(tokenizer["model"]));
  entries.push_back({"tokenizer.ggml.model", std::string("gpt2")});
  entries.push_back({"tokenizer.ggml.pre", std::move(name)});
  entries.push_back({"tokenizer.ggml.merges", std::move(merges)});
  return absl::OkStatus();
}

absl::Status AddPieces(const json& tokenizer, const std::vector<GgufToken>& tokens,
                       std::vector<GgufEntry>& entries) {
  LATHE_ASSIGN_OR_RETURN(GgufPieces pieces, ScorePieces(tokenizer, tokens));
  entries.push_back({"tokenizer.ggml.model", std::string("llama")});
  entries.push_back({"tokenizer.ggml.pre", std::string("default")});
  entries.push_back({"tokenizer.ggml.scores", std::move(pieces.scores)});
  entries.push_back({"tokenizer.ggml.add_space_prefix", pieces.blank_before_text});
  return absl::OkStatus();
}

// Byte-level: a llama.cpp that is not told adds the first token with some pre-tokenizers. Llama
// models with SmolLM's and Granite's vocabulary: conversion/llama.py, set_vocab.
void AddSurrounding(const Surrounding& around, bool is_pieces, bool is_llama,
                    const ModelConfig& config, std::vector<GgufEntry>& entries) {
  constexpr int64_t kWithoutBos = 49152;
  std::optional<bool> bos = is_pieces ? around.bos : around.bos.value_or(false);
  if (is_llama && config.vocab_size == kWithoutBos) bos = false;
  if (bos) entries.push_back({"tokenizer.ggml.add_bos_token", *bos});
  if (around.eos) entries.push_back({"tokenizer.ggml.add_eos_token", *around.eos});
}

}  // namespace

absl::StatusOr<std::vector<GgufEntry>> GgufVocabulary(const std::filesystem::path& dir,
                                                      const ModelConfig& config, bool is_llama) {
  LATHE_ASSIGN_OR_RETURN(const json tokenizer, ReadObject(dir, "tokenizer.json"));
  LATHE_ASSIGN_OR_RETURN(const json tokenizer_config, ReadObject(dir, "tokenizer_config.json"));
  LATHE_RETURN_IF_ERROR(CheckModel(tokenizer));
  const bool is_pieces = tokenizer["model"].value("byte_fallback", json(false)) == true;
  LATHE_ASSIGN_OR_RETURN(const std::vector<GgufToken> tokens,
                         ReadTokens(tokenizer, is_pieces, config.vocab_size));
  LATHE_ASSIGN_OR_RETURN(const Surrounding around, ReadSurrounding(tokenizer, tokenizer_config));
  LATHE_ASSIGN_OR_RETURN(std::string chat_template,
                         ReadFile(dir / "chat_template.jinja", kMaxFileBytes));
  std::vector<GgufEntry> entries;
  LATHE_RETURN_IF_ERROR(is_pieces ? AddPieces(tokenizer, tokens, entries)
                                  : AddBytes(tokenizer, entries));
  if (is_llama && !is_pieces) AddPrefixSpace(tokenizer_config, entries);
  AddTokens(tokens, entries);
  AddSpecialIds(tokenizer, tokenizer_config, config, entries);
  AddSurrounding(around, is_pieces, is_llama, config, entries);
  entries.push_back({"tokenizer.chat_template", std::move(chat_template)});
  return entries;
}

}  // namespace lathe
