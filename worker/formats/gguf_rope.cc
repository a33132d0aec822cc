#include "worker/formats/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lathe {
namespace {

// The converter computes in 32 bits.
constexpr double kTolerance = 1e-4;

// llama.cpp, convert_hf_to_gguf.py, generate_extra_tensors of LlamaModel.
double Divisor(const RopeScaling& scaling, double frequency) {
  const double wavelength = 2 * M_PI / frequency;
  const auto original = static_cast<double>(scaling.original_positions);
  if (wavelength < original / scaling.high_freq_factor) return 1;
  if (wavelength > original / scaling.low_freq_factor) return scaling.factor;
  const double smooth = (original / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

double FactorAt(const RopeScaling& scaling, const ModelConfig& config, int64_t i) {
  const double exponent = 2 * static_cast<double>(i) / static_cast<double>(config.head_dim);
  return Divisor(scaling, std::pow(config.rope_theta, -exponent));
}

}  // namespace

absl::StatusOr<RopeScaling> RopeScalingFromGguf(const GgufTensor& factors,
                                                const ModelConfig& config) {
  const int64_t count = config.head_dim / 2;
  if (factors.shape != std::vector<int64_t>{count} || factors.type != GgmlType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", factors.name, "' is ", GgmlTypeName(factors.type), " [",
                     absl::StrJoin(factors.shape, ", "), "]; must be F32 [", count, "]"));
  }
  std::vector<float> stored(static_cast<size_t>(count));
  DequantizeRows(factors, 0, 1, stored.data());
  RopeScaling scaling = {.type = RopeType::kLlama3};
  scaling.factor = *std::max_element(stored.begin(), stored.end());
  for (int64_t i = 0; i < count; ++i) {
    const double expected = FactorAt(scaling, config, i);
    const double got = stored[static_cast<size_t>(i)];
    if (std::abs(got - expected) <= kTolerance * expected) continue;
    return absl::UnimplementedError(absl::StrCat(
        "tensor '", factors.name, "' has ", got, " at ", i, "; supported are the numbers of ",
        "Llama 3's scaling over 8192 positions, where it is ", expected));
  }
  return scaling;
}

std::vector<float> GgufRopeFactors(const ModelConfig& config) {
  std::vector<float> factors;
  for (int64_t i = 0; i < config.head_dim / 2; ++i) {
    factors.push_back(static_cast<float>(FactorAt(config.rope_scaling, config, i)));
  }
  return factors;
}

}  // namespace lathe
