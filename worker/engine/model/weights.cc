#include "worker/engine/model/weights.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/mapped_file.h"
#include "common/base/status.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

// Beside a matrix of 16 bits, for adapters (ops/lora_plan.h): three of rank 64. 5 % of the memory
// of a matrix 3584 wide.
constexpr int64_t kSpareColumns = 192;

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status Fault(absl::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("model.safetensors: tensor '", name, "' ", what));
}

absl::Status CheckTensor(const TensorView& view, const ParameterSpec& spec) {
  if (view.shape != spec.shape) {
    return Fault(spec.name, absl::StrCat("has shape ", ShapeText(view.shape),
                                         "; config.json asks for ", ShapeText(spec.shape)));
  }
  if (view.dtype != Dtype::kF32) {
    return Fault(spec.name, absl::StrCat("is ", DtypeName(view.dtype),
                                         "; a canonical folder has F32: import the model"));
  }
  if (reinterpret_cast<uintptr_t>(view.bytes.data()) % alignof(float) != 0) {
    return Fault(spec.name, "is not aligned to 4 bytes: import the model");
  }
  return absl::OkStatus();
}

absl::Status CheckTensors(const SafetensorsFile& file, const std::vector<ParameterSpec>& specs) {
  std::set<absl::string_view> expected;
  for (const ParameterSpec& spec : specs) {
    expected.insert(spec.name);
    const TensorView* view = file.Find(spec.name);
    if (view == nullptr) {
      return Fault(spec.name, absl::StrCat("is missing; config.json asks for it with shape ",
                                           ShapeText(spec.shape)));
    }
    LATHE_RETURN_IF_ERROR(CheckTensor(*view, spec));
  }
  for (const TensorView& view : file.tensors()) {
    if (!expected.contains(view.name)) {
      return Fault(view.name, absl::StrCat("is not a parameter of this model, which has ",
                                           specs.size(), " tensors by config.json"));
    }
  }
  return absl::OkStatus();
}

// Makes tensors of a checked file.
class TensorMaker {
 public:
  TensorMaker(const SafetensorsFile& file, const ModelOptions& options)
      : file_(file),
        device_(DeviceOf(options)),
        fp64_(options.fp64),
        nf4_(options.storage == BaseStorage::kNf4 || options.storage == BaseStorage::kNf4Bf16),
        narrow_(ComputeType(options) == at::kBFloat16),
        bf16_(options.storage == BaseStorage::kBf16 || options.storage == BaseStorage::kNf4Bf16),
        trainable_(options.trainable) {}

  at::Tensor Vector(const std::string& name) const { return Join({name}).to(device_); }
  // Below each other.
  at::Tensor Matrix(const std::vector<std::string>& names) const {
    return (bf16_ ? Round(names) : Join(names)).to(device_);
  }

  LinearGroup Group(const DecoderLayout& layout, const std::string& prefix,
                    Projection projection) const {
    LinearGroup group;
    std::vector<std::string> weights;
    std::vector<std::string> biases;
    bool quantized = false;
    for (const LinearSpec& linear : layout.linears) {
      if (linear.projection != projection) continue;
      weights.push_back(absl::StrCat(prefix, linear.name, ".weight"));
      if (linear.bias) biases.push_back(absl::StrCat(prefix, linear.name, ".bias"));
      group.out_features.push_back(linear.out_features);
      quantized = nf4_ && !linear.never_quantized;
    }
    if (weights.empty()) return group;
    if (quantized) {
      for (const std::string& name : weights) {
        group.quantized.push_back(ToDevice(Quantize(name), device_));
      }
    } else {
      group.weight = Matrix(weights);
      if (narrow_) {
        group.weight = WithSpareColumns(group.weight);
        group.spare_columns = kSpareColumns;
      }
    }
    if (!biases.empty()) group.bias = Join(biases).to(device_);
    return group;
  }

 private:
  static at::Tensor WithSpareColumns(const at::Tensor& matrix) {
    const at::Tensor wide =
        at::zeros({matrix.size(0), matrix.size(1) + kSpareColumns}, matrix.options());
    at::Tensor own = wide.narrow(1, 0, matrix.size(1));
    own.copy_(matrix);
    return own;
  }

  // The mapped floats are needed once: their memory goes back.
  Nf4Matrix Quantize(const std::string& name) const {
    const TensorView& view = *file_.Find(name);
    Nf4Matrix matrix = QuantizeNf4(Map(view, view.shape));
    ReleasePages(view.bytes);
    return matrix;
  }

  at::Tensor Round(const std::vector<std::string>& names) const {
    std::vector<int64_t> shape = file_.Find(names[0])->shape;
    shape[0] = 0;
    for (const std::string& name : names) shape[0] += file_.Find(name)->shape[0];
    at::Tensor rounded = at::empty(shape, at::kBFloat16);
    int64_t row = 0;
    for (const std::string& name : names) {
      const TensorView& view = *file_.Find(name);
      rounded.narrow(0, row, view.shape[0]).copy_(Map(view, view.shape));
      row += view.shape[0];
      ReleasePages(view.bytes);
    }
    return rounded;
  }

  // Matrices of one width below each other, or vectors: a view where the file has them so.
  at::Tensor Join(const std::vector<std::string>& names) const {
    std::vector<at::Tensor> parts;
    std::vector<int64_t> shape = file_.Find(names[0])->shape;
    const char* end = file_.Find(names[0])->bytes.data();
    bool adjacent = true;
    shape[0] = 0;
    for (const std::string& name : names) {
      const TensorView& view = *file_.Find(name);
      adjacent = adjacent && view.bytes.data() == end;
      end = view.bytes.data() + view.bytes.size();
      shape[0] += view.shape[0];
      parts.push_back(Map(view, view.shape));
    }
    const at::Tensor joined =
        adjacent ? Map(*file_.Find(names[0]), shape) : at::cat(parts, 0).contiguous();
    const at::Tensor made = fp64_ ? joined.to(at::kDouble) : joined;
    return trainable_ ? Own(made, names) : made;
  }

  // A leaf in memory of its own. The mapped floats are needed once: their memory goes back.
  at::Tensor Own(const at::Tensor& values, const std::vector<std::string>& names) const {
    at::Tensor leaf = values.clone().set_requires_grad(true);
    for (const std::string& name : names) ReleasePages(file_.Find(name)->bytes);
    return leaf;
  }

  // Frozen: nothing ever writes to it, and the mapping is read-only.
  static at::Tensor Map(const TensorView& view, const std::vector<int64_t>& shape) {
    return at::from_blob(const_cast<char*>(view.bytes.data()), shape, at::kFloat);
  }

  const SafetensorsFile& file_;
  const at::Device device_;
  const bool fp64_;
  const bool nf4_;
  const bool narrow_;
  const bool bf16_;
  const bool trainable_;
};

LayerWeights MakeLayer(const TensorMaker& maker, const DecoderLayout& layout, int64_t layer) {
  const std::string prefix = absl::StrCat(layout.layers, ".", layer, ".");
  LayerWeights weights;
  if (layer == 0 && !layout.relative_bias.empty()) {
    weights.relative_bias = maker.Vector(absl::StrCat(prefix, layout.relative_bias, ".weight"));
  }
  if (!layout.cross_norm.empty()) {
    weights.cross_norm = maker.Vector(absl::StrCat(prefix, layout.cross_norm, ".weight"));
  }
  weights.input_norm = maker.Vector(absl::StrCat(prefix, layout.input_norm, ".weight"));
  weights.post_attention_norm =
      maker.Vector(absl::StrCat(prefix, layout.post_attention_norm, ".weight"));
  if (!layout.query_norm.empty()) {
    weights.query_norm = maker.Vector(absl::StrCat(prefix, layout.query_norm, ".weight"));
    weights.key_norm = maker.Vector(absl::StrCat(prefix, layout.key_norm, ".weight"));
  }
  for (int i = 0; i < kNumProjections; ++i) {
    weights.groups[i] = maker.Group(layout, prefix, static_cast<Projection>(i));
  }
  return weights;
}

// Each with the name of the first parameter that it holds.
std::vector<AdapterTensor> Named(const std::vector<at::Tensor>& tensors,
                                 const std::vector<ParameterSpec>& specs) {
  std::vector<AdapterTensor> named;
  size_t next = 0;
  for (const at::Tensor& tensor : tensors) {
    named.push_back({specs.at(next).name, tensor});
    for (int64_t rows = tensor.size(0); rows > 0; ++next) rows -= specs.at(next).shape[0];
  }
  return named;
}

}  // namespace

at::Device DeviceOf(const ModelOptions& options) {
  if (options.cuda_device < 0) return at::kCPU;
  return {at::kCUDA, static_cast<at::DeviceIndex>(options.cuda_device)};
}

at::ScalarType ComputeType(const ModelOptions& options) {
  if (options.fp64) return at::kDouble;
  const bool narrow =
      options.storage == BaseStorage::kBf16 || options.storage == BaseStorage::kNf4Bf16;
  return options.bf16_compute || (options.cuda_device >= 0 && narrow) ? at::kBFloat16 : at::kFloat;
}

absl::StatusOr<BaseStorage> ParseBaseStorage(absl::string_view name) {
  if (name == "f32") return BaseStorage::kF32;
  if (name == "bf16") return BaseStorage::kBf16;
  if (name == "nf4") return BaseStorage::kNf4;
  if (name == "nf4+bf16") return BaseStorage::kNf4Bf16;
  return absl::InvalidArgumentError(absl::StrCat("base storage is '", name.substr(0, 80),
                                                 "'; must be f32, bf16, nf4 or nf4+bf16"));
}

absl::StatusOr<ModelWeights> LoadWeights(const fs::path& model_dir, const ModelConfig& config,
                                         const ModelOptions& options) {
  if (options.trainable && options.storage != BaseStorage::kF32) {
    return absl::InvalidArgumentError("a model is trained itself in F32 only");
  }
  LATHE_ASSIGN_OR_RETURN(SafetensorsFile file,
                         SafetensorsFile::Open(model_dir / "model.safetensors"));
  LATHE_RETURN_IF_ERROR(CheckTensors(file, ParameterSpecs(config)));
  ModelWeights weights = {.file = std::move(file),
                          .embedding = {},
                          .final_norm = {},
                          .encoder_norm = {},
                          .head = {},
                          .layers = {}};
  const TensorMaker maker(weights.file, options);
  const DecoderLayout layout = LayoutOf(config);
  weights.embedding = maker.Matrix({layout.embedding + ".weight"});
  weights.final_norm = maker.Vector(layout.final_norm + ".weight");
  weights.head =
      config.tie_word_embeddings ? weights.embedding : maker.Matrix({layout.head + ".weight"});
  const std::vector<LayerStack> stacks = StacksOf(config);
  for (const LayerStack& stack : stacks) {
    for (int64_t i = 0; i < stack.num_layers; ++i) {
      weights.layers.push_back(MakeLayer(maker, stack.layout, i));
    }
  }
  if (stacks.size() > 1)
    weights.encoder_norm = maker.Vector(stacks[0].layout.final_norm + ".weight");
  return weights;
}

std::vector<AdapterTensor> SplitParameters(const std::vector<ParameterSpec>& specs,
                                           const std::vector<at::Tensor>& joined) {
  std::vector<AdapterTensor> parameters;
  auto spec = specs.begin();
  for (const at::Tensor& tensor : joined) {
    for (int64_t row = 0; row < tensor.size(0); row += spec->shape[0], ++spec) {
      TORCH_CHECK(spec != specs.end() && row + spec->shape[0] <= tensor.size(0),
                  "the tensors are not the parameters of the model");
      parameters.push_back({spec->name, tensor.narrow(0, row, spec->shape[0]).view(spec->shape)});
    }
  }
  TORCH_CHECK(spec == specs.end(), "the tensors end before parameter ", spec->name);
  return parameters;
}

std::vector<AdapterTensor> ParameterTensorsOf(const ModelWeights& weights,
                                              const ModelConfig& config) {
  const int64_t first_decoder_layer = config.encoder_decoder ? config.num_layers : 0;
  std::vector<at::Tensor> tensors = {weights.embedding};
  const auto add = [&](const at::Tensor& tensor) {
    if (tensor.defined()) tensors.push_back(tensor);
  };
  const auto add_group = [&](const LayerWeights& layer, Projection projection) {
    const LinearGroup& group = layer.groups[static_cast<size_t>(projection)];
    add(group.weight);
    add(group.bias);
  };
  // The order of decoder_layout.cc.
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    if (i > 0 && static_cast<int64_t>(i) == first_decoder_layer) add(weights.encoder_norm);
    add(layer.input_norm);
    add_group(layer, Projection::kQkv);
    add(layer.query_norm);
    add(layer.key_norm);
    add_group(layer, Projection::kOutput);
    add(layer.cross_norm);
    add_group(layer, Projection::kCrossQuery);
    add_group(layer, Projection::kCrossKeyValue);
    add_group(layer, Projection::kCrossOutput);
    add(layer.post_attention_norm);
    add_group(layer, Projection::kGateUp);
    add_group(layer, Projection::kDown);
    add(layer.relative_bias);
  }
  add(weights.final_norm);
  if (!config.tie_word_embeddings) add(weights.head);
  return Named(tensors, ParameterSpecs(config));
}

}  // namespace lathe
