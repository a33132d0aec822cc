#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/generate/generate.h"
#include "worker/engine/model/language_model.h"

namespace lathe {

// Answers that are made together: a step is one pass through the model for all open sequences of
// one adapter, and gives each its next token. A sequence may come at any time; it has its own
// options, seed and end, and gets the tokens that it gets alone (rows of a matrix product may
// differ from the single row in the last bit). Thread-compatible.
class BatchGenerator {
 public:
  using EndCallback = std::function<void(const Generation&)>;

  // `model` must outlive it.
  explicit BatchGenerator(LanguageModel& model);
  ~BatchGenerator();

  // Continues `prompt`, or answers it where it is an encoder-decoder's source; it is read in a
  // later step. The same arguments give the same tokens. Stop strings are not looked at: TextStream
  // does. `on_end` is called once, in a step. InvalidArgument: an option, an empty prompt, or one
  // that leaves no room.
  absl::Status Add(const std::vector<int32_t>& prompt, const std::string& adapter,
                   const GenerateOptions& options, TokenCallback on_token, EndCallback on_end);

  // A token more for every open sequence; prompts of more than kMaxPassTokens together are read
  // one after the other. Callbacks are called in the order of Add and must not call this object.
  // Throws what the model throws; then only Clear() may follow.
  void Step();

  size_t num_open() const { return open_.size(); }
  bool Uses(const std::string& adapter) const;
  int64_t num_passes() const { return num_passes_; }
  // Forgets all open sequences without a call.
  void Clear();

 private:
  static constexpr size_t kMaxPassTokens = 4096;
  struct Sequence;

  void StepAdapter(const std::string& adapter);
  // Takes the next token; true: that was the last one.
  static bool Take(Sequence& sequence, const at::Tensor& logits);

  LanguageModel& model_;
  std::list<std::unique_ptr<Sequence>> open_;
  int64_t num_passes_ = 0;
};

}  // namespace lathe
