#include "worker/engine/generate/generate.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe {
namespace {

constexpr int kMaxTokens = 1 << 20;
constexpr size_t kMaxStopStrings = 16;

absl::Status CheckPrompt(size_t num_tokens, const ModelConfig& config) {
  const auto limit = static_cast<size_t>(config.max_positions);
  if (num_tokens >= 1 && num_tokens < limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the prompt has ", num_tokens, " tokens; must have 1 to ", limit - 1, " with this model"));
}

// The tokens that a repetition penalty counts: an encoder-decoder's are those of its decoder alone.
std::vector<int32_t> SeenTokens(const ModelConfig& config, const std::vector<int32_t>& prompt) {
  if (!config.encoder_decoder) return prompt;
  return {static_cast<int32_t>(config.encoder_decoder->start_id)};
}

}  // namespace

absl::Status GenerateOptions::Validate() const {
  if (max_tokens < 1 || max_tokens > kMaxTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", max_tokens, "; must be in [1, ", kMaxTokens, "]"));
  }
  if (stop_strings.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", stop_strings.size(), " stop strings; must be at most ", kMaxStopStrings));
  }
  return sample.Validate();
}

absl::StatusOr<Generation> Generate(CausalLm& model, const std::vector<int32_t>& prompt,
                                    const std::string& adapter, const GenerateOptions& options,
                                    const TokenCallback& on_token) {
  LATHE_RETURN_IF_ERROR(options.Validate());
  LATHE_RETURN_IF_ERROR(CheckPrompt(prompt.size(), model.config()));
  const int64_t room = model.config().max_positions - static_cast<int64_t>(prompt.size());
  const int64_t limit = std::min<int64_t>(options.max_tokens, room);
  const auto cache = model.NewCache();
  Generation result;
  std::vector<int32_t> seen = SeenTokens(model.config(), prompt);
  at::Tensor logits = model.Extend(*cache, prompt, adapter);
  while (true) {
    logits = PenalizeRepetition(logits, seen, options.sample.repetition_penalty);
    const int32_t id = SampleToken(logits, options.sample, cache->length());
    result.ids.push_back(id);
    seen.push_back(id);
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) {
      result.finish = FinishReason::kStop;
      return result;
    }
    if (!on_token(id)) {
      result.finish = FinishReason::kCancelled;
      return result;
    }
    if (static_cast<int64_t>(result.ids.size()) == limit) return result;
    logits = model.Extend(*cache, {id}, adapter);
  }
}

}  // namespace lathe
