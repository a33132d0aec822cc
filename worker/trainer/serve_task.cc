#include "worker/trainer/serve_task.h"

#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/data/tool_use.h"
#include "worker/trainer/parent_inbox.h"
#include "worker/trainer/torch_guard.h"
#include "worker/trainer/torch_process.h"
#include "worker/trainer/wire_reporter.h"

namespace lathe {
namespace {

namespace pb = internal::v1;

constexpr int64_t kDefaultMaxTokens = 256;
constexpr int64_t kMaxTokens = 4096;
constexpr double kMaxTemperature = 5;

absl::StatusOr<Role> RoleFrom(const std::string& name) {
  if (name == "system") return Role::kSystem;
  if (name == "user") return Role::kUser;
  if (name == "assistant") return Role::kAssistant;
  if (name == "tool") return Role::kTool;
  return absl::InvalidArgumentError(
      absl::StrCat("role is '", name.substr(0, 80), "'; must be system, user, assistant or tool"));
}

absl::StatusOr<OrderedJson> JsonFrom(const std::string& text, absl::string_view what) {
  OrderedJson json;
  Findings findings;
  if (text.empty() || ParseOrdered(text, json, findings)) return json;
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", findings.first_error().reason));
}

absl::Status FirstError(const Findings& findings) {
  return absl::InvalidArgumentError(findings.first_error().reason);
}

// The fields are read as those of a training row.
absl::StatusOr<OrderedJson> FieldsFrom(const v1::ChatMessage& message, Role role,
                                       const std::string& path, const ToolList& tools) {
  OrderedJson given = OrderedJson::object();
  LATHE_ASSIGN_OR_RETURN(given["tool_calls"], JsonFrom(message.tool_calls(), path + ".tool_calls"));
  const std::pair<const char*, const std::string*> texts[] = {
      {"reasoning_content", &message.reasoning_content()},
      {"tool_call_id", &message.tool_call_id()},
      {"name", &message.name()}};
  for (const auto& [key, text] : texts) {
    if (!text->empty()) given[key] = *text;
  }
  OrderedJson fields;
  Findings findings;
  if (!ReadFields(given, role, path, tools, fields, findings)) return FirstError(findings);
  return fields;
}

absl::StatusOr<ToolList> ToolsFrom(const v1::ChatRequest& request) {
  ToolList tools;
  if (request.tools().empty()) return tools;
  LATHE_ASSIGN_OR_RETURN(const OrderedJson json, JsonFrom(request.tools(), "tools"));
  Findings findings;
  if (!ReadTools(json, tools, findings)) return FirstError(findings);
  return tools;
}

absl::StatusOr<Conversation> MessagesFrom(const v1::ChatRequest& request, const ToolList& tools) {
  Conversation messages;
  std::vector<OrderedJson> fields;
  for (const v1::ChatMessage& message : request.messages()) {
    LATHE_ASSIGN_OR_RETURN(const Role role, RoleFrom(message.role()));
    const std::string path = absl::StrCat("messages[", messages.size(), "]");
    LATHE_ASSIGN_OR_RETURN(fields.emplace_back(), FieldsFrom(message, role, path, tools));
    messages.push_back({.role = role, .content = message.content()});
    if (!fields.back().empty()) {
      messages.back().fields =
          fields.back().dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
    }
  }
  Findings findings;
  if (!CheckCalls(messages, fields, findings)) return FirstError(findings);
  const bool is_asked = !messages.empty() && (messages.back().role == Role::kUser ||
                                              messages.back().role == Role::kTool);
  if (!is_asked)
    return absl::InvalidArgumentError("the last message is not the user's or a tool's");
  return messages;
}

// How one answer goes out.
class AnswerSender {
 public:
  AnswerSender(ChildChannel& channel, std::string request_id)
      : channel_(channel), request_id_(std::move(request_id)) {}

  void Text(const std::string& text) const {
    pb::ChildMessage message = Empty();
    message.mutable_text()->mutable_response()->set_text(text);
    (void)channel_.Send(message);
  }

  void End(const ChatAnswer& answer) const {
    if (answer.finish == FinishReason::kCancelled) return Error(absl::CancelledError("cancelled"));
    pb::ChildMessage message = Empty();
    v1::ChatResponse& last = *message.mutable_text()->mutable_response();
    last.set_finish_reason(answer.finish == FinishReason::kStop ? "stop" : "length");
    last.set_prompt_tokens(answer.prompt_tokens);
    last.set_completion_tokens(answer.completion_tokens);
    (void)channel_.Send(message);
  }

  void Error(const absl::Status& status) const {
    pb::ChildMessage message = Empty();
    message.mutable_text()->set_error_code(static_cast<int>(status.code()));
    message.mutable_text()->set_error(std::string(status.message()));
    (void)channel_.Send(message);
  }

 private:
  pb::ChildMessage Empty() const {
    pb::ChildMessage message;
    message.mutable_text()->set_request_id(request_id_);
    return message;
  }

  ChildChannel& channel_;
  const std::string request_id_;
};

// A coordinator that does not know of it sends none.
absl::StatusOr<BaseStorage> StorageFrom(const pb::ServeTask& task) {
  return task.base_storage().empty() ? BaseStorage::kF32 : ParseBaseStorage(task.base_storage());
}

// Answers as many questions together as there are, up to kMaxOpen; one that comes later joins them.
class Server {
 public:
  Server(ChildChannel& channel, ChatEngine& engine, ParentInbox& inbox, WireReporter& reporter)
      : channel_(channel), engine_(engine), inbox_(inbox), reporter_(reporter) {}

  // Until the inbox ends.
  void Run() {
    while (true) {
      auto message = open_.empty() ? inbox_.NextQuestion() : Joining();
      if (message) {
        Take(*message);
      } else if (open_.empty()) {
        return;
      } else {
        Step();
      }
    }
  }

 private:
  static constexpr size_t kMaxOpen = 16;

  std::optional<pb::Generate> Joining() {
    if (open_.size() >= kMaxOpen) return std::nullopt;
    return inbox_.TryNextQuestion();
  }

  AnswerSender SenderOf(const std::string& id) const { return {channel_, id}; }

  void Take(const pb::Generate& message) {
    const std::string& id = message.request_id();
    open_.insert(id);
    const absl::Status status = CatchTorch([&] { return Ask(message); });
    if (!status.ok()) End(id, status);
  }

  absl::Status Ask(const pb::Generate& message) {
    const std::string& id = message.request_id();
    if (inbox_.IsCancelled(id)) return absl::CancelledError("cancelled");
    LATHE_ASSIGN_OR_RETURN(const ChatQuestion question, QuestionFrom(message));
    return engine_.Ask(
        question,
        [this, id](const std::string& text) {
          reporter_.OnPhase("serve");
          SenderOf(id).Text(text);
          return !inbox_.IsCancelled(id);
        },
        [this, id](const ChatAnswer& answer) {
          SenderOf(id).End(answer);
          Forget(id);
        });
  }

  // What fails in the middle of a pass fails for all of its answers.
  void Step() {
    const absl::Status status = CatchTorch([&] {
      engine_.Step();
      return absl::OkStatus();
    });
    if (status.ok()) return;
    engine_.Clear();
    const std::set<std::string> failed = open_;
    for (const std::string& id : failed) End(id, status);
  }

  void End(const std::string& id, const absl::Status& status) {
    SenderOf(id).Error(status);
    Forget(id);
  }

  void Forget(std::string id) {  // A copy: it may be the one in the set.
    inbox_.Answered(id);
    open_.erase(id);
  }

  ChildChannel& channel_;
  ChatEngine& engine_;
  ParentInbox& inbox_;
  WireReporter& reporter_;
  std::set<std::string> open_;  // Taken and not answered.
};

}  // namespace

absl::StatusOr<ChatQuestion> QuestionFrom(const pb::Generate& message) {
  const v1::ChatRequest& request = message.request();
  ChatQuestion question{
      .messages = {}, .tools = {}, .adapter_dir = message.adapter_dir(), .options = {}};
  LATHE_ASSIGN_OR_RETURN(ToolList tools, ToolsFrom(request));
  LATHE_ASSIGN_OR_RETURN(question.messages, MessagesFrom(request, tools));
  question.tools = std::move(tools.json);
  const int64_t max_tokens = request.max_tokens() == 0 ? kDefaultMaxTokens : request.max_tokens();
  if (max_tokens < 1 || max_tokens > kMaxTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", max_tokens, "; must be in [1, ", kMaxTokens, "]"));
  }
  if (!(request.temperature() >= 0 && request.temperature() <= kMaxTemperature)) {
    return absl::InvalidArgumentError(absl::StrCat("temperature is ", request.temperature(),
                                                   "; must be in [0, ", kMaxTemperature, "]"));
  }
  question.options.max_tokens = static_cast<int>(max_tokens);
  question.options.sample.temperature = request.temperature();
  question.options.sample.top_p = request.top_p() == 0 ? 1 : request.top_p();
  question.options.sample.top_k = request.top_k();
  question.options.sample.repetition_penalty =
      request.repetition_penalty() == 0 ? 1 : request.repetition_penalty();
  question.options.sample.seed = static_cast<uint64_t>(request.seed());
  question.options.stop_strings = {request.stop().begin(), request.stop().end()};
  LATHE_RETURN_IF_ERROR(question.options.Validate());
  return question;
}

absl::StatusOr<pb::Done> RunServeTask(const pb::Task& task, ChildChannel& channel) {
  SetUpTorchProcess(task.threads());
  ParentInbox inbox(channel, ParentInbox::OnClose::kDrain);
  WireReporter reporter(channel, {.attempt = task.attempt()});
  reporter.OnPhase("load");
  LATHE_ASSIGN_OR_RETURN(const BaseStorage storage, StorageFrom(task.serve()));
  LATHE_ASSIGN_OR_RETURN(const std::unique_ptr<ChatEngine> engine,
                         ChatEngine::Load(task.serve().model_dir(), {.storage = storage}));
  reporter.OnPhase("serve");
  Server(channel, *engine, inbox, reporter).Run();
  if (inbox.cancel_token().stop_requested()) return absl::CancelledError("cancelled");
  return pb::Done();
}

}  // namespace lathe
