#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/generate/batch_generator.h"
#include "worker/engine/generate/generate.h"
#include "worker/engine/model/language_model.h"
#include "worker/text/conversation.h"
#include "worker/text/text_model.h"

namespace lathe {

struct ChatQuestion {
  Conversation messages;              // The last one is the user's or a tool's.
  std::string tools;                  // A JSON list, or empty.
  std::filesystem::path adapter_dir;  // PEFT folder; empty: the base alone.
  GenerateOptions options;            // The model's own stop ids are added.
};

struct ChatAnswer {
  FinishReason finish = FinishReason::kLength;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
};

// One base model with its tokenizer and template, and the adapters that were asked for last, each
// known by its folder. Answers several questions together. Thread-compatible; throws what libtorch
// throws.
class ChatEngine {
 public:
  using AnswerCallback = std::function<void(const ChatAnswer&)>;

  static absl::StatusOr<std::unique_ptr<ChatEngine>> Load(const std::filesystem::path& model_dir,
                                                          const ModelOptions& options);

  // Takes a question; its answer comes out of Step, text as it is made. The prompt is what a
  // training row would have before the answer. InvalidArgument: the template refuses the
  // conversation or does not show its tools, or it leaves no room for an answer.
  absl::Status Ask(const ChatQuestion& question, TextCallback on_text, AnswerCallback on_answer);
  // A token more for every answer. After an exception all of them are lost: Clear().
  void Step() { generator_.Step(); }
  void Clear() { generator_.Clear(); }
  size_t num_open() const { return generator_.num_open(); }

 private:
  static constexpr size_t kMaxAdapters = 8;  // More, while they are in use.

  ChatEngine(std::unique_ptr<TextModel> text, std::unique_ptr<LanguageModel> model)
      : text_(std::move(text)), model_(std::move(model)), generator_(*model_) {}

  // Loads the adapter if it is not there; returns its name, empty for the base.
  absl::StatusOr<std::string> UseAdapter(const std::filesystem::path& dir);
  void TrimAdapters();

  std::unique_ptr<TextModel> text_;
  std::unique_ptr<LanguageModel> model_;
  BatchGenerator generator_;
  std::deque<std::string> adapters_;  // Names of the loaded ones, last used last.
};

}  // namespace lathe
