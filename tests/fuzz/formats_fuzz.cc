// Weights and their descriptions: safetensors, GGUF, config.json, adapter_config.json, the index of
// shards.

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_targets.h"
#include "worker/formats/gguf.h"
#include "worker/formats/import_source.h"
#include "worker/formats/model_config.h"
#include "worker/formats/peft.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/weight_files.h"

namespace lathe {
namespace {

// One read of every page: a view that leaves its mapping is a crash.
void Touch(absl::string_view bytes) {
  volatile char sink = 0;
  for (size_t i = 0; i < bytes.size(); i += 4096) sink = bytes[i];
  if (!bytes.empty()) sink = bytes.back();
  (void)sink;
}

int64_t NumRows(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) count *= shape[i];
  return count;
}

void DequantizeEnds(const GgufTensor& tensor) {
  constexpr int64_t kMaxWidth = 1 << 20;
  const int64_t width = tensor.shape.back();
  if (width > kMaxWidth) return;
  std::vector<float> row(static_cast<size_t>(width));
  DequantizeRows(tensor, 0, 1, row.data());
  DequantizeRows(tensor, NumRows(tensor.shape) - 1, 1, row.data());
}

void ReadParameters(const ModelSource& source) {
  constexpr int64_t kMaxValues = 1 << 16;
  const std::vector<ParameterSpec> specs = ParameterSpecs(source.config());
  for (size_t i = 0; i < specs.size(); ++i) {
    const int64_t width = specs[i].shape.back();
    const int64_t num_rows = specs[i].shape.size() == 1 ? 1 : specs[i].shape[0];
    const int64_t count = std::min(num_rows, std::max<int64_t>(1, kMaxValues / width));
    std::vector<float> rows(static_cast<size_t>(count * width));
    source.ReadRows(i, 0, count, rows.data());
    source.ReadRows(i, num_rows - count, count, rows.data());
  }
}

}  // namespace

void FuzzSafetensors(absl::string_view input) {
  const InputFile file(input);
  const auto opened = SafetensorsFile::Open(file.path());
  RequireGoodError(opened.status());
  if (!opened.ok()) return;
  uint64_t covered = 0;
  for (const TensorView& tensor : opened->tensors()) {
    Touch(tensor.bytes);
    covered += tensor.bytes.size();
    Require(opened->Find(tensor.name) == &tensor, "a tensor is found by its name");
  }
  Require(covered < input.size(), "tensors have more bytes than the file");
}

void FuzzGguf(absl::string_view input) {
  const InputFile input_file(input);
  const auto file = GgufFile::Open(input_file.path());
  RequireGoodError(file.status());
  if (!file.ok()) return;
  for (const auto& [name, tensor] : file->tensors()) DequantizeEnds(tensor);
  RequireGoodError(TokenizerJsonFromGguf(*file).status());
  const auto source = OpenGgufSource(input_file.path());
  RequireGoodError(source.status());
  if (source.ok()) ReadParameters(**source);
}

// What is read and written again must say the same.
void FuzzConfig(absl::string_view input) {
  const auto config = ParseModelConfig(input);
  RequireGoodError(config.status());
  if (!config.ok()) return;
  Require(ValidateModelConfig(*config).ok(), "a parsed config is valid");
  Require(!ParameterSpecs(*config).empty(), "a parsed config has parameters");
  const std::string written = ModelConfigJson(*config);
  const auto again = ParseModelConfig(written);
  Require(again.ok(), again.status().message());
  Require(ModelConfigJson(*again) == written, "a written config is read back as it was");
}

void FuzzAdapterConfig(absl::string_view input) {
  const auto config = ParseAdapterConfig(input);
  RequireGoodError(config.status());
  if (!config.ok()) return;
  IsTarget("model.layers.0.self_attn.q_proj", config->target_modules);
  const std::string written = AdapterConfigJson(*config);
  const auto again = ParseAdapterConfig(written);
  Require(again.ok(), again.status().message());
  Require(AdapterConfigJson(*again) == written, "a written config is read back as it was");
}

void FuzzWeightIndex(absl::string_view input) {
  static const auto* folder = [] {
    auto* made = new InputFolder();
    for (const char* name : {"a", "b"}) {
      const std::vector<float> values(4);
      const absl::string_view bytes(reinterpret_cast<const char*>(values.data()), 16);
      Require(WriteSafetensors(made->path() / (std::string(name) + ".safetensors"),
                               {{name, Dtype::kF32, {4}, bytes}})
                  .ok(),
              "write");
    }
    return made;
  }();
  folder->Write("model.safetensors.index.json", input);
  const auto files = WeightFiles::Open(folder->path());
  RequireGoodError(files.status());
  if (!files.ok()) return;
  for (const auto& [name, tensor] : files->tensors()) Touch(tensor->bytes);
}

}  // namespace lathe
