#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

// How a byte-level tokenizer of a GGUF file cuts text before merging: what the names of
// tokenizer.ggml.pre stand for (ggml-org/llama.cpp, src/llama-vocab.cpp), as the tokenizer.json of
// the models writes it. Only for .cc files of this folder.

namespace lathe {

struct GgufPreTokenizer {
  std::string json;                 // "pre_tokenizer" of tokenizer.json.
  std::string normalizer = "null";  // "normalizer".
  bool ignore_merges = false;       // A word that is a token is that token.
};

// Unimplemented: an unknown name; the message lists those that are known.
absl::StatusOr<GgufPreTokenizer> FindGgufPreTokenizer(absl::string_view name);

// The other way round, of a whole tokenizer.json with a byte-level BPE model: the name under which
// llama.cpp cuts text as it does. Unimplemented: there is none known here; the message names the
// part that no known one has.
absl::StatusOr<std::string> NameGgufPreTokenizer(const nlohmann::json& tokenizer);

}  // namespace lathe
