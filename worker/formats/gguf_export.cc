#include "worker/formats/gguf_export.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/gguf_names.h"
#include "worker/formats/gguf_rope.h"
#include "worker/formats/gguf_vocabulary.h"
#include "worker/formats/gguf_writer.h"
#include "worker/formats/merged_weights.h"
#include "worker/formats/model_family.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Progress = std::function<void(const std::string&)>;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;
// llama.h, llama_ftype; ggml.h, GGML_QNT_VERSION.
constexpr uint32_t kMostlyF16 = 1;
constexpr uint32_t kMostlyQ8 = 7;
constexpr uint32_t kQuantizationVersion = 2;

// A parameter and its place in the file.
struct Placed {
  const TensorView* tensor = nullptr;
  GgufTensorSpec spec;
  bool permuted = false;
};

struct Model {
  ModelConfig config;
  const ModelFamily* form = nullptr;
  std::vector<float> rope_factors;  // Empty: none.
  std::vector<Placed> parameters;

  // All of the file, the rotary factors first.
  std::vector<GgufTensorSpec> Tensors() const {
    std::vector<GgufTensorSpec> tensors;
    if (!rope_factors.empty()) {
      const auto count = static_cast<int64_t>(rope_factors.size());
      tensors.push_back({kGgufRopeFactors, GgmlType::kF32, {count}});
    }
    for (const Placed& placed : parameters) tensors.push_back(placed.spec);
    return tensors;
  }
};

absl::StatusOr<const ModelFamily*> FormOf(const ModelConfig& config) {
  const ModelFamily* form = GgufFormOf(*FindFamily(config.architecture));
  if (form == nullptr) {
    return absl::UnimplementedError(absl::StrCat("the architecture is ", config.architecture,
                                                 "; GGUF is written of ",
                                                 GgufWritableArchitectures()));
  }
  if (config.rope_scaling.type != RopeType::kLlama3 || form->gguf == "llama") return form;
  return absl::UnimplementedError(absl::StrCat("rope_scaling is llama3 in a ", config.architecture,
                                               "; GGUF has a form for it in llama alone"));
}

// Vectors stay as they are; a row that is not whole blocks has no Q8_0.
GgmlType TypeOf(const std::vector<int64_t>& shape, GgmlType wanted) {
  if (shape.size() < 2) return GgmlType::kF32;
  return shape.back() % GgmlBlockOf(wanted).num_values == 0 ? wanted : GgmlType::kF16;
}

absl::Status Place(const MergedWeights& weights, GgmlType type, Model& model) {
  const DecoderLayout layout = LayoutOf(model.config);
  for (const ParameterSpec& parameter : ParameterSpecs(model.config)) {
    const TensorView* tensor = weights.base().Find(parameter.name);
    if (tensor == nullptr || tensor->shape != parameter.shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          "model.safetensors: tensor '", parameter.name, "' is missing or has not the ", "shape [",
          absl::StrJoin(parameter.shape, ", "), "] of config.json"));
    }
    GgufTensorSpec spec = {GgufName(layout, parameter.name), TypeOf(parameter.shape, type),
                           parameter.shape};
    const bool permuted = IsPermuted(*model.form, spec.name);
    model.parameters.push_back({tensor, std::move(spec), permuted});
  }
  return absl::OkStatus();
}

// gguf-py/gguf/utility.py, model_weight_count_rounded_notation: "135M", "1.2B", at least two
// digits.
std::string SizeLabel(const std::vector<GgufTensorSpec>& tensors) {
  double count = 0;
  for (const GgufTensorSpec& tensor : tensors) {
    double size = 1;
    for (const int64_t dim : tensor.shape) size *= static_cast<double>(dim);
    count += size;
  }
  const auto [unit, suffix] = count > 1e12  ? std::pair(1e12, "T")
                              : count > 1e9 ? std::pair(1e9, "B")
                              : count > 1e6 ? std::pair(1e6, "M")
                                            : std::pair(1e3, "K");
  const double scaled = count / unit;
  const int digits = scaled <= 0.5 ? 2 : scaled < 9.5 ? 1 : 0;
  return absl::StrFormat("%.*f%s", digits, scaled, suffix);
}

// generation_config.json's way to sample (gguf-py/gguf/metadata.py).
absl::Status AddSampling(const fs::path& base_dir, std::vector<GgufEntry>& entries) {
  std::error_code error;
  const fs::path path = base_dir / "generation_config.json";
  if (!fs::exists(path, error)) return absl::OkStatus();
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  LATHE_ASSIGN_OR_RETURN(const json config, ParseStrictObject(text, "generation_config.json"));
  const json top_k = config.value("top_k", json());
  if (top_k.is_number_integer()) {
    entries.push_back({"general.sampling.top_k", top_k.get<int32_t>()});
  }
  for (const auto& [ours, theirs] :
       {std::pair("top_p", "top_p"), std::pair("min_p", "min_p"), std::pair("temperature", "temp"),
        std::pair("repetition_penalty", "penalty_repeat")}) {
    const json value = config.value(ours, json());
    if (!value.is_number()) continue;
    entries.push_back({absl::StrCat("general.sampling.", theirs), value.get<float>()});
  }
  return absl::OkStatus();
}

// NAME.* of one architecture.
void AddConfig(const Model& model, std::vector<GgufEntry>& entries) {
  const ModelConfig& config = model.config;
  const auto key = [&](absl::string_view name) {
    return absl::StrCat(model.form->gguf, ".", name);
  };
  const auto add = [&](absl::string_view name, int64_t value) {
    entries.push_back({key(name), static_cast<uint32_t>(value)});
  };
  const auto add_real = [&](absl::string_view name, double value) {
    entries.push_back({key(name), static_cast<float>(value)});
  };
  add("block_count", config.num_layers);
  add("context_length", config.position_embeddings);
  add("embedding_length", config.hidden_size);
  add("feed_forward_length", config.intermediate_size);
  add("attention.head_count", config.num_heads);
  add("attention.head_count_kv", config.num_kv_heads);
  if (config.rope_scaling.type == RopeType::kLinear) {
    entries.push_back({key("rope.scaling.type"), std::string("linear")});
    add_real("rope.scaling.factor", config.rope_scaling.factor);
  }
  add_real("rope.freq_base", config.rope_theta);
  add_real("attention.layer_norm_rms_epsilon", config.rms_norm_eps);
  add("attention.key_length", config.head_dim);
  add("attention.value_length", config.head_dim);
  if (model.form->gguf != "llama") return;
  add("vocab_size", config.vocab_size);
  add("rope.dimension_count", config.head_dim);
}

absl::StatusOr<std::vector<GgufEntry>> Metadata(const fs::path& base_dir, const Model& model,
                                                const std::string& name, GgmlType type) {
  std::vector<GgufEntry> entries = {
      {"general.architecture", std::string(model.form->gguf)},
      {"general.type", std::string("model")},
  };
  LATHE_RETURN_IF_ERROR(AddSampling(base_dir, entries));
  entries.push_back({"general.name", name});
  entries.push_back({"general.size_label", SizeLabel(model.Tensors())});
  AddConfig(model, entries);
  entries.push_back({"general.file_type", type == GgmlType::kF16 ? kMostlyF16 : kMostlyQ8});
  entries.push_back({"general.quantization_version", kQuantizationVersion});
  LATHE_ASSIGN_OR_RETURN(std::vector<GgufEntry> vocabulary,
                         GgufVocabulary(base_dir, model.config, model.form->gguf == "llama"));
  for (GgufEntry& entry : vocabulary) entries.push_back(std::move(entry));
  return entries;
}

// Of a vector it is the values that are permuted.
void PermuteValues(int64_t head_dim, std::vector<float>& row) {
  const std::vector<float> ours = row;
  for (size_t i = 0; i < row.size(); ++i) {
    row[i] = ours[static_cast<size_t>(UnpermutedRow(static_cast<int64_t>(i), head_dim))];
  }
}

absl::Status WriteParameter(const MergedWeights& weights, const Placed& placed, int64_t head_dim,
                            GgufWriter& writer) {
  MergedTensor merged(weights, *placed.tensor);
  const bool is_vector = placed.spec.shape.size() == 1;
  std::vector<float> row;
  std::string bytes;
  for (size_t i = 0; i < merged.num_rows(); ++i) {
    const size_t ours = placed.permuted && !is_vector
                            ? static_cast<size_t>(UnpermutedRow(static_cast<int64_t>(i), head_dim))
                            : i;
    LATHE_RETURN_IF_ERROR(merged.Read(ours, row));
    if (placed.permuted && is_vector) PermuteValues(head_dim, row);
    if (!EncodeGgmlRow(placed.spec.type, row, bytes)) {
      return TooLargeError(placed.tensor->name, ours, GgmlTypeName(placed.spec.type));
    }
    LATHE_RETURN_IF_ERROR(writer.Append(bytes));
  }
  return absl::OkStatus();
}

absl::Status WriteTensors(const MergedWeights& weights, const Model& model, GgufWriter& writer,
                          const Progress& progress) {
  if (!model.rope_factors.empty()) {
    std::string bytes;
    EncodeGgmlRow(GgmlType::kF32, model.rope_factors, bytes);
    LATHE_RETURN_IF_ERROR(writer.Append(bytes));
  }
  const size_t count = model.parameters.size();
  size_t tenth = 0;
  for (size_t i = 0; i < count; ++i) {
    LATHE_RETURN_IF_ERROR(
        WriteParameter(weights, model.parameters[i], model.config.head_dim, writer));
    if (std::exchange(tenth, (i + 1) * 10 / count) == (i + 1) * 10 / count || !progress) continue;
    progress(absl::StrCat("writes tensor ", i + 1, " of ", count));
  }
  return absl::OkStatus();
}

absl::Status CheckTarget(const fs::path& file, const GgufExportOptions& options) {
  std::error_code error;
  if (file.extension() != ".gguf" || file.stem().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.string(), ": must be the name of a new file that ends in .gguf"));
  }
  if (fs::exists(fs::symlink_status(file, error))) {
    return absl::AlreadyExistsError(absl::StrCat(file.string(), ": is there already"));
  }
  if (options.type == GgmlType::kF16 || options.type == GgmlType::kQ8_0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the type is ", GgmlTypeName(options.type), "; must be F16 or Q8_0"));
}

}  // namespace

absl::Status ExportGguf(const fs::path& base_dir, const fs::path& adapter_dir, const fs::path& file,
                        const GgufExportOptions& options, const Progress& progress) {
  LATHE_RETURN_IF_ERROR(CheckTarget(file, options));
  Model model;
  LATHE_ASSIGN_OR_RETURN(model.config, LoadModelConfig(base_dir));
  LATHE_ASSIGN_OR_RETURN(model.form, FormOf(model.config));
  if (model.config.rope_scaling.type == RopeType::kLlama3) {
    model.rope_factors = GgufRopeFactors(model.config);
  }
  LATHE_ASSIGN_OR_RETURN(const MergedWeights weights, MergedWeights::Open(base_dir, adapter_dir));
  LATHE_RETURN_IF_ERROR(Place(weights, options.type, model));
  const std::string name = options.name.empty() ? file.stem().string() : options.name;
  LATHE_ASSIGN_OR_RETURN(const std::vector<GgufEntry> metadata,
                         Metadata(base_dir, model, name, options.type));
  const fs::path target = fs::absolute(file).lexically_normal();
  LATHE_RETURN_IF_ERROR(MakeFolder(target.parent_path()));
  LATHE_ASSIGN_OR_RETURN(GgufWriter writer, GgufWriter::Create(target, metadata, model.Tensors()));
  LATHE_RETURN_IF_ERROR(WriteTensors(weights, model, writer, progress));
  return writer.Finish();
}

}  // namespace lathe
