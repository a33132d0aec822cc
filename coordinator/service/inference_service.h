#pragma once

#include "coordinator/service/chats.h"
#include "coordinator/service/coordinator.h"
#include "coordinator/service/hub.h"
#include "lathe/v1/inference.grpc.pb.h"

namespace lathe {

// lathe.v1.InferenceService. Thread-safe; what it refers to outlives the server.
class InferenceServiceImpl final
    : public v1::InferenceService::WithCallbackMethod_Chat<v1::InferenceService::Service> {
 public:
  InferenceServiceImpl(Coordinator& coordinator, Hub& hub) : coordinator_(coordinator), hub_(hub) {}

  grpc::ServerWriteReactor<v1::ChatResponse>* Chat(grpc::CallbackServerContext* context,
                                                   const v1::ChatRequest* request) override;

 private:
  Coordinator& coordinator_;
  Hub& hub_;
};

// Roles and limits of a conversation.
absl::Status Validate(const v1::ChatRequest& request);

}  // namespace lathe
