#include "worker/engine/model/rope_frequencies.h"

#include <ATen/ATen.h>

#include <cmath>

#include "worker/formats/decoder_layout.h"

namespace lathe {
namespace {

// Long wavelengths are divided by the factor, short ones kept, those between blended.
at::Tensor StretchLlama3(const at::Tensor& frequencies, const RopeScaling& scaling) {
  const auto original = static_cast<double>(scaling.original_positions);
  const at::Tensor wavelengths = frequencies.reciprocal() * (2 * M_PI);
  const at::Tensor is_long = wavelengths > original / scaling.low_freq_factor;
  const at::Tensor is_short = wavelengths < original / scaling.high_freq_factor;
  const at::Tensor stretched = at::where(is_long, frequencies / scaling.factor, frequencies);
  const at::Tensor smooth = (wavelengths.reciprocal() * original - scaling.low_freq_factor) /
                            (scaling.high_freq_factor - scaling.low_freq_factor);
  const at::Tensor blended = at::rsub(smooth, 1) * stretched / scaling.factor + smooth * stretched;
  return at::where(is_long.logical_or(is_short), stretched, blended);
}

}  // namespace

at::Tensor RopeFrequencies(const ModelConfig& config, at::ScalarType dtype) {
  const int64_t width = LayoutOf(config).rotary_dim;
  const at::Tensor exponent =
      at::arange(0, width, 2, at::kLong).to(dtype) / static_cast<double>(width);
  const at::Tensor frequencies = at::pow(config.rope_theta, exponent).reciprocal_();
  switch (config.rope_scaling.type) {
    case RopeType::kDefault:
      break;
    case RopeType::kLinear:
      return frequencies / config.rope_scaling.factor;
    case RopeType::kLlama3:
      return StretchLlama3(frequencies, config.rope_scaling);
  }
  return frequencies;
}

}  // namespace lathe
