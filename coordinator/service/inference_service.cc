#include "coordinator/service/inference_service.h"

#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/rpc/status.h"

namespace lathe {
namespace {

constexpr int kMaxMessages = 1000;
constexpr int kMaxStops = 16;
constexpr double kMaxTopK = 1e6;

class ChatSource final : public PullSource<v1::ChatResponse> {
 public:
  ChatSource(Coordinator& coordinator, std::shared_ptr<ChatSession> session, std::string id)
      : coordinator_(coordinator), session_(std::move(session)), id_(std::move(id)) {}

  Pulled Pull(v1::ChatResponse& message, grpc::Status& status) override {
    return session_->Pull(message, status);
  }

  void OnDone() override {
    session_->Close();
    coordinator_.CloseChat(id_);
  }

 private:
  Coordinator& coordinator_;
  const std::shared_ptr<ChatSession> session_;  // Shared with the worker's stream.
  const std::string id_;
};

absl::Status InRange(absl::string_view key, double value, double low, double high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", value, "; must be in [", low, ", ", high, "]"));
}

}  // namespace

absl::Status Validate(const v1::ChatRequest& request) {
  if (request.messages_size() < 1 || request.messages_size() > kMaxMessages) {
    return absl::InvalidArgumentError(
        absl::StrCat("messages has ", request.messages_size(), "; must have 1 to ", kMaxMessages));
  }
  for (const v1::ChatMessage& message : request.messages()) {
    const std::string& role = message.role();
    if (role == "system" || role == "user" || role == "assistant" || role == "tool") continue;
    return absl::InvalidArgumentError(absl::StrCat("role is '", role.substr(0, 80),
                                                   "'; must be system, user, assistant or tool"));
  }
  const std::string& last = request.messages(request.messages_size() - 1).role();
  if (last != "user" && last != "tool") {
    return absl::InvalidArgumentError("the last message must be the user's or a tool's");
  }
  if (request.stop_size() > kMaxStops) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop has ", request.stop_size(), "; at most ", kMaxStops));
  }
  for (const auto& [key, value, low, high] :
       {std::tuple("max_tokens", static_cast<double>(request.max_tokens()), 0.0, 4096.0),
        std::tuple("temperature", request.temperature(), 0.0, 5.0),
        std::tuple("top_p", request.top_p(), 0.0, 1.0),
        std::tuple("top_k", static_cast<double>(request.top_k()), 0.0, kMaxTopK),
        std::tuple("repetition_penalty", request.repetition_penalty(), 0.0, 10.0)}) {
    if (const absl::Status status = InRange(key, value, low, high); !status.ok()) return status;
  }
  return absl::OkStatus();
}

grpc::ServerWriteReactor<v1::ChatResponse>* InferenceServiceImpl::Chat(
    grpc::CallbackServerContext*, const v1::ChatRequest* request) {
  if (const absl::Status status = Validate(*request); !status.ok()) {
    return new RefusedStream<v1::ChatResponse>(ToGrpc(status));
  }
  auto session = std::make_shared<ChatSession>();
  const auto id = coordinator_.OpenChat(*request, session);
  if (!id.ok()) return new RefusedStream<v1::ChatResponse>(ToGrpc(id.status()));
  return PullStream<v1::ChatResponse>::Start(
      std::make_unique<ChatSource>(coordinator_, std::move(session), *id), hub_,
      Chats::HubKey(*id));
}

}  // namespace lathe
