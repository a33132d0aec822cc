#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/engine/model/language_model.h"
#include "worker/engine/model/language_model_tensors.h"

// The tiny Llama of tests/data with its goldens. tests/oracle/README.md describes the files.

namespace lathe {

struct Row {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;
};

std::filesystem::path DataFolder();
nlohmann::json ReadJson(const std::filesystem::path& path);
std::vector<Row> RowsOf(const nlohmann::json& rows);
PackedBatch Pack(const std::vector<Row>& rows);
PackedBatch Document(const std::vector<int32_t>& ids);

// A tensor of a safetensors file, copied.
at::Tensor ReadTensor(const std::filesystem::path& path, const std::string& name);

// tiny-llama with tiny-adapter as adapter "tuned". Fails the test if it cannot be read.
std::unique_ptr<LanguageModel> LoadTiny(bool fp64);

// A model whose parameters are trained themselves.
std::unique_ptr<LanguageModel> LoadTrainable(const std::filesystem::path& model_dir, bool fp64);

// Compares the loss sum of `batch` and its gradient for every parameter with the tensors "loss_sum"
// and "gradient.NAME" of the file `golden`. Tolerances are relative, of each tensor's norm.
void ExpectParameterGradients(const std::filesystem::path& golden, LanguageModel& model,
                              const PackedBatch& batch, double loss_tolerance,
                              double gradient_tolerance);

// max |a - b|.
double MaxDifference(const at::Tensor& a, const at::Tensor& b);
// |a - b| / |b| in the L2 norm.
double RelativeError(const at::Tensor& a, const at::Tensor& b);

// Loss sum of the batch and the gradient of every adapter tensor, in the order of the file; without
// an adapter of those of ParameterTensors.
struct LossAndGradients {
  double loss = 0;
  std::vector<at::Tensor> gradients;
};
LossAndGradients Differentiate(LanguageModel& model, const std::vector<PackedBatch>& batches,
                               const std::string& adapter, bool training = true,
                               uint64_t dropout_seed = 0);

}  // namespace lathe
