#include "worker/prepare/parent_link.h"

#include <sys/socket.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace lathe {

ParentLink::ParentLink(ChildChannel& channel)
    : channel_(channel), listener_([this] { Listen(); }) {}

ParentLink::~ParentLink() {
  finished_ = true;
  shutdown(channel_.fd(), SHUT_RD);  // Ends a Receive() that waits.
  listener_.join();
}

void ParentLink::Listen() {
  while (true) {
    internal::v1::ParentMessage message;
    const absl::Status status = channel_.Receive(message);
    if (finished_) return;
    if (!status.ok()) {
      LogError(absl::StrCat("the agent is gone: ", status.message()));
      _exit(kExitPeerLost);
    }
    if (message.has_cancel()) cancelled_ = true;
  }
}

absl::Status ParentLink::Report(absl::string_view phase, int64_t counter) {
  if (cancelled_) return absl::CancelledError("cancelled by the agent");
  const absl::Time now = absl::Now();
  if (phase == phase_ && now - sent_ < absl::Seconds(1)) return absl::OkStatus();
  phase_ = std::string(phase);
  sent_ = now;
  internal::v1::ChildMessage message;
  message.mutable_phase()->set_name(phase_);
  message.mutable_phase()->set_counter(counter);
  return channel_.Send(message);
}

absl::Status ParentLink::ReportLine(const std::string& line) {
  internal::v1::ChildMessage message;
  message.set_progress(line);
  return channel_.Send(message);
}

}  // namespace lathe
