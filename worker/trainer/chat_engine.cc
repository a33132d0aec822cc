#include "worker/trainer/chat_engine.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/status.h"

namespace lathe {

absl::StatusOr<std::unique_ptr<ChatEngine>> ChatEngine::Load(const std::filesystem::path& model_dir,
                                                             const ModelOptions& options) {
  LATHE_ASSIGN_OR_RETURN(std::unique_ptr<TextModel> text, TextModel::Load(model_dir));
  LATHE_ASSIGN_OR_RETURN(std::unique_ptr<LanguageModel> model,
                         LanguageModel::Load(model_dir, options));
  return std::unique_ptr<ChatEngine>(new ChatEngine(std::move(text), std::move(model)));
}

absl::Status ChatEngine::Ask(const ChatQuestion& question, TextCallback on_text,
                             AnswerCallback on_answer) {
  if (!question.tools.empty() && !text_->traits().shows_tools) {
    return absl::InvalidArgumentError("tools: the model's chat template does not show them");
  }
  LATHE_ASSIGN_OR_RETURN(const std::vector<RenderedToken> rendered,
                         text_->Render(WithFittingArguments(text_->traits(), question.messages),
                                       /*generation_prompt=*/true, question.tools));
  std::vector<int32_t> prompt;
  prompt.reserve(rendered.size());
  for (const RenderedToken& token : rendered) prompt.push_back(token.id);
  LATHE_ASSIGN_OR_RETURN(const std::string adapter, UseAdapter(question.adapter_dir));
  GenerateOptions options = question.options;
  options.stop_ids.insert(options.stop_ids.end(), text_->stop_ids().begin(),
                          text_->stop_ids().end());
  const auto stream = std::make_shared<TextStream<StreamDecoder>>(
      StreamDecoder(*text_), options.stop_strings, std::move(on_text));
  return generator_.Add(
      prompt, adapter, options, [stream](int32_t id) { return stream->Push(id); },
      [stream, on_answer = std::move(on_answer),
       num_prompt = static_cast<int64_t>(prompt.size())](const Generation& generation) {
        on_answer({.finish = stream->Finish(generation.finish),
                   .prompt_tokens = num_prompt,
                   .completion_tokens = static_cast<int64_t>(generation.ids.size())});
      });
}

absl::StatusOr<std::string> ChatEngine::UseAdapter(const std::filesystem::path& dir) {
  const std::string name = dir.string();
  if (name.empty()) return name;
  const auto found = std::find(adapters_.begin(), adapters_.end(), name);
  if (found != adapters_.end()) {
    adapters_.erase(found);
  } else {
    LATHE_RETURN_IF_ERROR(model_->LoadAdapter(name, dir));
  }
  TrimAdapters();
  adapters_.push_back(name);
  return name;
}

// Makes room for one more. Those that an answer needs stay.
void ChatEngine::TrimAdapters() {
  for (auto it = adapters_.begin(); it != adapters_.end() && adapters_.size() >= kMaxAdapters;) {
    if (generator_.Uses(*it)) {
      ++it;
      continue;
    }
    model_->RemoveAdapter(*it);
    it = adapters_.erase(it);
  }
}

}  // namespace lathe
