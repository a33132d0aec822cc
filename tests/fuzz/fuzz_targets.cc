#include "tests/fuzz/fuzz_targets.h"

namespace lathe {

const std::vector<FuzzTarget>& FuzzTargets() {
  static const auto* targets = new std::vector<FuzzTarget>{
      {"adapter_config", FuzzAdapterConfig},
      {"config", FuzzConfig},
      {"gguf", FuzzGguf},
      {"rows", FuzzRows},
      {"safetensors", FuzzSafetensors},
      {"sentencepiece", FuzzSentencePiece},
      {"shard", FuzzShard},
      {"template", FuzzTemplate},
      {"tokenizer", FuzzTokenizer},
      {"weight_index", FuzzWeightIndex},
  };
  return *targets;
}

const FuzzTarget* FindFuzzTarget(absl::string_view name) {
  for (const FuzzTarget& target : FuzzTargets()) {
    if (target.name == name) return &target;
  }
  return nullptr;
}

}  // namespace lathe
