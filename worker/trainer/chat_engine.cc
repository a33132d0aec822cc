#include "worker/trainer/chat_engine.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/status.h"

namespace lathe {

absl::StatusOr<std::unique_ptr<ChatEngine>> ChatEngine::Load(const std::filesystem::path& model_dir,
                                                             const ModelOptions& options) {
  LATHE_ASSIGN_OR_RETURN(std::unique_ptr<TextModel> text, TextModel::Load(model_dir));
  LATHE_ASSIGN_OR_RETURN(std::unique_ptr<CausalLm> model, CausalLm::Load(model_dir, options));
  return std::unique_ptr<ChatEngine>(new ChatEngine(std::move(text), std::move(model)));
}

absl::StatusOr<ChatAnswer> ChatEngine::Answer(const ChatQuestion& question,
                                              const TextCallback& on_text) {
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
  StreamDecoder decoder(*text_);
  LATHE_ASSIGN_OR_RETURN(const Generation generation,
                         GenerateText(*model_, decoder, prompt, adapter, options, on_text));
  return ChatAnswer{.finish = generation.finish,
                    .prompt_tokens = static_cast<int64_t>(prompt.size()),
                    .completion_tokens = static_cast<int64_t>(generation.ids.size())};
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
  adapters_.push_back(name);
  if (adapters_.size() > kMaxAdapters) {
    model_->RemoveAdapter(adapters_.front());
    adapters_.pop_front();
  }
  return name;
}

}  // namespace lathe
