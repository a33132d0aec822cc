#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/generate/sample.h"
#include "worker/engine/generate/stop_strings.h"

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

// Called with text that will not change any more, never empty; false ends the answer.
using TextCallback = std::function<bool(const std::string& text)>;

// The text of one answer. `Decoder` is lathe::StreamDecoder, or anything with std::string
// Push(int32_t) and std::string Finish(). Thread-compatible.
template <typename Decoder>
class TextStream {
 public:
  TextStream(Decoder decoder, std::vector<std::string> stops, TextCallback on_text)
      : decoder_(std::move(decoder)), stops_(std::move(stops)), on_text_(std::move(on_text)) {}

  // A TokenCallback.
  bool Push(int32_t id) { return Send(stops_.Push(decoder_.Push(id))) && !stops_.found(); }

  // Sends what was held back; returns why the text ended, `finish` being why the tokens did.
  FinishReason Finish(FinishReason finish) {
    if (finish != FinishReason::kCancelled) {
      std::string rest = stops_.Push(decoder_.Finish());
      rest += stops_.Finish();
      Send(rest);
    }
    return stops_.found() ? FinishReason::kStop : finish;
  }

 private:
  bool Send(const std::string& text) { return text.empty() || on_text_(text); }

  Decoder decoder_;
  StopStrings stops_;
  TextCallback on_text_;
};

}  // namespace lathe
