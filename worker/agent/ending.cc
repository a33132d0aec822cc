#include "worker/agent/ending.h"

#include <sys/wait.h>

#include <csignal>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "common/base/exit_codes.h"
#include "worker/agent/text_line.h"

namespace lathe::agent {
namespace {

constexpr size_t kMaxMessageBytes = 2000;
constexpr size_t kMaxQuoteBytes = 300;

std::string CauseName(FailureCause cause) {
  switch (cause) {
    case FailureCause::kUser:
      return "user";
    case FailureCause::kPeerLost:
      return "peer_lost";
    case FailureCause::kMachine:
      return "machine";
    case FailureCause::kCheckpoint:
      return "checkpoint";
    case FailureCause::kDisk:
      return "disk";
    case FailureCause::kNone:
    case FailureCause::kBug:
      break;
  }
  return "bug";
}

absl::StatusCode CodeOf(FailureCause cause) {
  switch (cause) {
    case FailureCause::kUser:
      return absl::StatusCode::kInvalidArgument;
    case FailureCause::kPeerLost:
    case FailureCause::kMachine:
      return absl::StatusCode::kUnavailable;
    case FailureCause::kCheckpoint:
      return absl::StatusCode::kDataLoss;
    case FailureCause::kDisk:
      return absl::StatusCode::kResourceExhausted;
    case FailureCause::kNone:
    case FailureCause::kBug:
      break;
  }
  return absl::StatusCode::kInternal;
}

pb::Ended Failure(absl::string_view cause, int code, absl::string_view message) {
  pb::Ended ended;
  ended.set_cause(std::string(cause));
  ended.set_code(code);
  ended.set_message(CleanLine(message.substr(0, kMaxMessageBytes)));
  return ended;
}

std::string Gib(int64_t bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (1 << 30));
}

// "FOLDER/in/source/a.gguf: cut" -> "a.gguf: cut".
std::string WithoutFolder(const std::string& message, const std::string& folder) {
  if (folder.empty()) return message;
  std::vector<std::pair<std::string, std::string>> replacements;
  for (const char* part : {"/in/source/", "/in/data/", "/in/", "/"}) {
    replacements.emplace_back(folder + part, "");
  }
  return absl::StrReplaceAll(message, replacements);
}

// "killed by signal 9 (...); used at most 3.10 of 7.80 GiB", "exited with 70; last line: ...".
std::string DescribeWithoutReport(const ChildStory& story) {
  const int status = story.exit.wait_status;
  std::string text = story.impatience.empty() ? DescribeExit(status) : story.impatience;
  if (!story.impatience.empty()) {
    // The signal was ours.
  } else if (WIFSIGNALED(status)) {
    absl::StrAppend(&text, "; used at most ", Gib(story.exit.peak_memory_bytes));
    if (story.machine_memory_bytes > 0) {
      absl::StrAppend(&text, " of ", Gib(story.machine_memory_bytes));
    }
    if (story.oom_killer_ran) absl::StrAppend(&text, "; the machine's out-of-memory killer ran");
  } else if (story.done.has_value()) {
    absl::StrAppend(&text, " after it had reported success");
  } else {
    absl::StrAppend(&text, " without a result");
  }
  if (!story.last_line.empty()) {
    absl::StrAppend(&text, "; last line: ",
                    WithoutFolder(story.last_line, story.folder).substr(0, kMaxQuoteBytes));
  }
  return text;
}

// The exit tells the cause; a child that reported a failure but exited with 0 is judged by the
// code of its report.
FailureCause CauseOf(const ChildStory& story) {
  const FailureCause by_exit = CauseOfExit(story.exit.wait_status);
  const bool by_itself = story.impatience.empty();
  if (by_itself && (by_exit != FailureCause::kNone || !story.failed.has_value())) return by_exit;
  // One that did its work and is not let to end was frozen by its machine.
  if (!story.failed.has_value()) {
    return story.done.has_value() ? FailureCause::kMachine : FailureCause::kBug;
  }
  const auto code = static_cast<absl::StatusCode>(story.failed->code());
  // Ranks agree on a cancel: this one ended because another's agent asked for it.
  if (code == absl::StatusCode::kCancelled) return FailureCause::kPeerLost;
  return CauseOfExit(W_EXITCODE(ExitCodeFor(absl::Status(code, "reported")), 0));
}

}  // namespace

pb::Ended Judge(const ChildStory& story) {
  if (story.stopped.has_value()) return EndedByStop(story.source, *story.stopped);
  const bool exited_well = story.exit.wait_status == 0;
  if (story.done.has_value() && !story.failed.has_value() && exited_well) {
    pb::Ended ended;
    ended.set_ok(true);
    *ended.mutable_done() = *story.done;
    return ended;
  }
  const FailureCause cause = CauseOf(story);
  const bool killed = WIFSIGNALED(story.exit.wait_status) && story.impatience.empty();
  if (story.failed.has_value() && !killed) {
    return Failure(
        CauseName(cause), story.failed->code(),
        absl::StrCat(story.source, ": ", WithoutFolder(story.failed->message(), story.folder)));
  }
  return Failure(CauseName(cause), static_cast<int>(CodeOf(cause)),
                 absl::StrCat(story.source, ": ", DescribeWithoutReport(story)));
}

pb::Ended EndedByAgent(const std::string& source, const absl::Status& status) {
  const auto failure = [&](const char* cause) {
    return Failure(cause, static_cast<int>(status.code()),
                   absl::StrCat(source, ": ", status.message()));
  };
  if (IsBadCheckpoint(status)) return failure("checkpoint");
  if (IsDiskFull(status)) return failure("disk");
  // The coordinator must not send such a thing.
  return failure(absl::IsInvalidArgument(status) ? "bug" : "machine");
}

pb::Ended EndedByStop(const std::string& source, const StopReason& reason) {
  const auto code =
      reason.cause == "cancelled" ? absl::StatusCode::kCancelled : absl::StatusCode::kUnavailable;
  return Failure(reason.cause, static_cast<int>(code), absl::StrCat(source, ": ", reason.message));
}

}  // namespace lathe::agent
