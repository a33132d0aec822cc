#pragma once

#include "absl/status/statusor.h"
#include "common/wire/child_channel.h"
#include "lathe/internal/v1/child.pb.h"
#include "worker/trainer/chat_engine.h"

namespace lathe {

// Loads the base and answers `generate` messages until the channel ends (OK) or a Cancel message
// comes (Cancelled). Questions that are there at the same time are answered together, a pass
// through the model per token and adapter; one that fails is answered with its error.
absl::StatusOr<internal::v1::Done> RunServeTask(const internal::v1::Task& task,
                                                ChildChannel& channel);

// InvalidArgument: a role, tool, call or limit of lathe.v1.ChatRequest.
absl::StatusOr<ChatQuestion> QuestionFrom(const internal::v1::Generate& message);

}  // namespace lathe
