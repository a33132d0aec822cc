#include "worker/formats/gguf_pre_tokenizer.h"

#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

using nlohmann::json;

constexpr absl::string_view kGpt2Bytes =
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
constexpr absl::string_view kBytes =
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false})";
constexpr absl::string_view kDigits = R"({"type":"Digits","individual_digits":true})";

constexpr absl::string_view kDefaultMarks = R"([\p{P}\$\+<=>\^~\|]+)";
constexpr absl::string_view kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))";
constexpr absl::string_view kLlama3Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr absl::string_view kQwen2Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr absl::string_view kTekkenWords =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

enum class Kind { kGpt2, kDigitsThenGpt2, kLlama3, kQwen2, kTekken, kDefault };

struct Named {
  absl::string_view name;
  Kind kind;
};
constexpr std::array<Named, 14> kNames = {{{"codeshell", Kind::kDigitsThenGpt2},
                                           {"command-r", Kind::kDigitsThenGpt2},
                                           {"deepseek-r1-qwen", Kind::kQwen2},
                                           {"default", Kind::kDefault},
                                           {"falcon3", Kind::kLlama3},
                                           {"gpt-2", Kind::kGpt2},
                                           {"llama-bpe", Kind::kLlama3},
                                           {"llama-v3", Kind::kLlama3},
                                           {"llama3", Kind::kLlama3},
                                           {"qwen2", Kind::kQwen2},
                                           {"refact", Kind::kDigitsThenGpt2},
                                           {"smollm", Kind::kDigitsThenGpt2},
                                           {"starcoder", Kind::kDigitsThenGpt2},
                                           {"tekken", Kind::kTekken}}};

std::string Sequence(const std::vector<std::string>& parts) {
  return absl::StrCat(R"({"type":"Sequence","pretokenizers":[)", absl::StrJoin(parts, ","), "]}");
}

std::string Split(absl::string_view regex) {
  return absl::StrCat(R"({"type":"Split","pattern":{"Regex":)", JsonQuoted(regex).value_or("\"\""),
                      R"(},"behavior":"Isolated","invert":false})");
}

GgufPreTokenizer Make(Kind kind) {
  GgufPreTokenizer made;
  const std::string bytes(kBytes);
  switch (kind) {
    case Kind::kGpt2:
      made.json = std::string(kGpt2Bytes);
      break;
    case Kind::kDigitsThenGpt2:
      made.json = Sequence({std::string(kDigits), std::string(kGpt2Bytes)});
      break;
    case Kind::kLlama3:
      made.json = Sequence({Split(kLlama3Words), bytes});
      made.ignore_merges = true;
      break;
    case Kind::kQwen2:
      made.json = Sequence({Split(kQwen2Words), bytes});
      made.normalizer = R"({"type":"NFC"})";
      break;
    case Kind::kTekken:
      made.json = Sequence({Split(kTekkenWords), bytes});
      made.ignore_merges = true;
      break;
    case Kind::kDefault:
      made.json = Sequence({Split(kDefaultMarks), Split(kGpt2Words), Split(R"(\p{N}+)"),
                            Split("[0-9][0-9][0-9]"), bytes});
      break;
  }
  return made;
}

// The name that a file is written with. Of several names for one kind llama.cpp treats text alike.
constexpr std::array<Named, 6> kWritten = {{{"llama-bpe", Kind::kLlama3},
                                            {"qwen2", Kind::kQwen2},
                                            {"smollm", Kind::kDigitsThenGpt2},
                                            {"tekken", Kind::kTekken},
                                            {"gpt-2", Kind::kGpt2},
                                            {"default", Kind::kDefault}}};

// What has no influence on ids is left out, and what may be left out is put in.
json Canonical(json part) {
  if (!part.is_object()) return part;
  if (part.value("type", json()) == "ByteLevel") {
    part.erase("trim_offsets");
    if (!part.contains("use_regex")) part["use_regex"] = true;
  }
  const auto parts = part.find("pretokenizers");
  if (parts == part.end() || !parts->is_array()) return part;
  for (json& member : *parts) member = Canonical(member);
  return part;
}

absl::Status NoNameError(const char* part, const json& value) {
  return absl::UnimplementedError(absl::StrCat(
      "tokenizer.json: ", part, " is ", ShortJson(value), "; GGUF has no name for it; named are ",
      absl::StrJoin(kWritten, ", ", [](std::string* out, const Named& named) {
        absl::StrAppend(out, "\"", named.name, "\"");
      })));
}

}  // namespace

absl::StatusOr<std::string> NameGgufPreTokenizer(const json& tokenizer) {
  const json pre = Canonical(tokenizer.value("pre_tokenizer", json()));
  for (const Named& named : kWritten) {
    const GgufPreTokenizer known = Make(named.kind);
    if (pre != Canonical(json::parse(known.json))) continue;
    const json normalizer = tokenizer.value("normalizer", json());
    if (normalizer != json::parse(known.normalizer)) return NoNameError("normalizer", normalizer);
    const json ignores = tokenizer.at("model").value("ignore_merges", json(false));
    if (ignores != known.ignore_merges) return NoNameError("model.ignore_merges", ignores);
    return std::string(named.name);
  }
  return NoNameError("pre_tokenizer", tokenizer.value("pre_tokenizer", json()));
}

absl::StatusOr<GgufPreTokenizer> FindGgufPreTokenizer(absl::string_view name) {
  std::vector<std::string> known;
  for (const Named& named : kNames) {
    if (named.name == name) return Make(named.kind);
    known.push_back(absl::StrCat("\"", named.name, "\""));
  }
  return absl::UnimplementedError(absl::StrCat("tokenizer.ggml.pre is ",
                                               ShortJson(std::string(name.data(), name.size())),
                                               "; supported are ", absl::StrJoin(known, ", ")));
}

}  // namespace lathe
