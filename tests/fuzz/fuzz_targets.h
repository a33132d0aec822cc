#pragma once

#include <vector>

#include "absl/strings/string_view.h"

// What scripts/fuzz feeds with bytes that nobody made, and what corpus_test.cc feeds with the
// committed ones. A target must end soon and in a bounded amount of memory, whatever it gets; a
// broken property ends the process.

namespace lathe {

struct FuzzTarget {
  absl::string_view name;  // Its corpus is tests/fuzz/corpus/NAME.
  void (*run)(absl::string_view input);
};

const std::vector<FuzzTarget>& FuzzTargets();
// Null: there is none of that name.
const FuzzTarget* FindFuzzTarget(absl::string_view name);

void FuzzAdapterConfig(absl::string_view input);  // adapter_config.json.
void FuzzConfig(absl::string_view input);         // config.json.
void FuzzGguf(absl::string_view input);           // A GGUF file, with its vocabulary.
void FuzzRows(absl::string_view input);           // A data set, JSON or JSONL.
void FuzzSafetensors(absl::string_view input);
// A byte that chooses options, then a SentencePiece file.
void FuzzSentencePiece(absl::string_view input);
void FuzzShard(absl::string_view input);  // A row shard without the sha256 at its end.
// A chat template, NUL, {"messages": [...]}, NUL, a list of tools.
void FuzzTemplate(absl::string_view input);
void FuzzTokenizer(absl::string_view input);    // tokenizer.json, NUL, a text.
void FuzzWeightIndex(absl::string_view input);  // model.safetensors.index.json.

}  // namespace lathe
