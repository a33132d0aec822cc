#include "tests/worker/engine/model/model_fixture.h"

#include <ATen/ATen.h>

#include <fstream>

#include "worker/formats/safetensors.h"

namespace lathe {

namespace fs = std::filesystem;

fs::path DataFolder() { return "tests/data"; }  // ctest runs in the source folder.

nlohmann::json ReadJson(const fs::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file);
}

std::vector<Row> RowsOf(const nlohmann::json& rows) {
  std::vector<Row> result;
  for (const auto& row : rows) result.push_back({row.at("ids"), row.at("trained")});
  return result;
}

PackedBatch Pack(const std::vector<Row>& rows) {
  PackedBatch batch;
  batch.document_begin.push_back(0);
  for (const Row& row : rows) {
    const auto begin = static_cast<int32_t>(batch.ids.size());
    for (size_t t = 0; t < row.ids.size(); ++t) {
      batch.ids.push_back(row.ids[t]);
      batch.positions.push_back(static_cast<int32_t>(t));
      if (t == 0 || row.trained[t] == 0) continue;
      batch.label_positions.push_back(begin + static_cast<int32_t>(t) - 1);
      batch.labels.push_back(row.ids[t]);
    }
    batch.document_begin.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

PackedBatch Document(const std::vector<int32_t>& ids) {
  return Pack({{ids, std::vector<uint8_t>(ids.size(), 0)}});
}

at::Tensor ReadTensor(const fs::path& path, const std::string& name) {
  const auto file = SafetensorsFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  const TensorView* view = file->Find(name);
  EXPECT_NE(view, nullptr) << name;
  const at::ScalarType type = view->dtype == Dtype::kF64   ? at::kDouble
                              : view->dtype == Dtype::kI32 ? at::kInt
                                                           : at::kFloat;
  return at::from_blob(const_cast<char*>(view->bytes.data()), view->shape, type).clone();
}

std::unique_ptr<LanguageModel> LoadTiny(bool fp64) {
  auto model = LanguageModel::Load(DataFolder() / "tiny-llama", {.fp64 = fp64});
  EXPECT_TRUE(model.ok()) << model.status();
  const absl::Status status = (*model)->LoadAdapter("tuned", DataFolder() / "tiny-adapter");
  EXPECT_TRUE(status.ok()) << status;
  return *std::move(model);
}

std::unique_ptr<LanguageModel> LoadTrainable(const fs::path& model_dir, bool fp64) {
  auto model = LanguageModel::Load(model_dir, {.fp64 = fp64, .trainable = true});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

void ExpectParameterGradients(const fs::path& golden, LanguageModel& model,
                              const PackedBatch& batch, double loss_tolerance,
                              double gradient_tolerance) {
  const LossAndGradients ours = Differentiate(model, {batch}, "");
  const double loss = ReadTensor(golden, "loss_sum").item<double>();
  EXPECT_NEAR(ours.loss, loss, loss_tolerance * loss);
  const std::vector<ParameterSpec> specs = ParameterSpecs(model.config());
  const auto gradients = SplitParameters(specs, ours.gradients);
  ASSERT_EQ(gradients.size(), specs.size());
  for (const auto& [name, gradient] : gradients) {
    EXPECT_LE(RelativeError(gradient, ReadTensor(golden, "gradient." + name)), gradient_tolerance)
        << name;
  }
}

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

double RelativeError(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor exact = b.to(at::kDouble);
  return ((a.to(at::kDouble) - exact).norm() / exact.norm()).item<double>();
}

LossAndGradients Differentiate(LanguageModel& model, const std::vector<PackedBatch>& batches,
                               const std::string& adapter, bool training, uint64_t dropout_seed) {
  LossAndGradients result;
  const std::vector<AdapterTensor> tensors =
      adapter.empty() ? model.ParameterTensors() : model.AdapterTensors(adapter);
  for (const AdapterTensor& tensor : tensors) tensor.tensor.mutable_grad().reset();
  for (const PackedBatch& batch : batches) {
    const at::Tensor loss = model.LossSum(batch, adapter, training, dropout_seed);
    loss.backward();
    result.loss += loss.item<double>();
  }
  for (const AdapterTensor& tensor : tensors)
    result.gradients.push_back(tensor.tensor.grad().clone());
  return result;
}

}  // namespace lathe
