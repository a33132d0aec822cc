#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/generate/sample.h"
#include "worker/engine/generate/stop_strings.h"
#include "worker/engine/model/causal_lm.h"

namespace lathe {

struct GenerateOptions {
  // Most tokens of an answer, [1, 1048576]. The model's own limit of positions holds as well.
  int max_tokens = 256;
  SampleOptions sample = {};
  std::vector<int32_t> stop_ids = {};          // Any of them ends the answer.
  std::vector<std::string> stop_strings = {};  // Any of them ends the text before it; at most 16.

  absl::Status Validate() const;
};

enum class FinishReason {
  kStop,       // A stop id or a stop string.
  kLength,     // max_tokens, or the model's positions are used up.
  kCancelled,  // The callback returned false.
};

struct Generation {
  std::vector<int32_t> ids;  // New tokens. A stop id is the last of them.
  FinishReason finish = FinishReason::kLength;
};

// Called with every new token but a stop id; false ends the answer.
using TokenCallback = std::function<bool(int32_t id)>;

// Continues `prompt`, or answers it where it is an encoder-decoder's source. The same arguments
// give the same tokens. Stop strings are not looked at: GenerateText does. InvalidArgument: an
// option, an empty prompt, or one that leaves no room. May throw as CausalLm does.
absl::StatusOr<Generation> Generate(CausalLm& model, const std::vector<int32_t>& prompt,
                                    const std::string& adapter, const GenerateOptions& options,
                                    const TokenCallback& on_token);

// Called with text that will not change any more, never empty; false ends the answer.
using TextCallback = std::function<bool(const std::string& text)>;

// Generate with text. `Decoder` is lathe::StreamDecoder, or anything with std::string Push(int32_t)
// and std::string Finish().
template <typename Decoder>
absl::StatusOr<Generation> GenerateText(CausalLm& model, Decoder& decoder,
                                        const std::vector<int32_t>& prompt,
                                        const std::string& adapter, const GenerateOptions& options,
                                        const TextCallback& on_text) {
  StopStrings stops(options.stop_strings);
  const auto send = [&](const std::string& text) { return text.empty() || on_text(text); };
  auto result = Generate(model, prompt, adapter, options, [&](int32_t id) {
    return send(stops.Push(decoder.Push(id))) && !stops.found();
  });
  if (!result.ok()) return result;
  if (result->finish != FinishReason::kCancelled) {
    std::string rest = stops.Push(decoder.Finish());
    rest += stops.Finish();
    send(rest);
  }
  if (stops.found()) result->finish = FinishReason::kStop;
  return result;
}

}  // namespace lathe
