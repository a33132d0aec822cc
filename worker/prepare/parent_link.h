#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/wire/child_channel.h"
#include "lathe/internal/v1/child.pb.h"

namespace lathe {

// The child's side of its channel to the agent while it works: reports go up, a cancel comes down.
// If the agent goes away the process ends at once with kExitPeerLost, whatever it is doing: nobody
// is left to take the result. (Not by PR_SET_PDEATHSIG: that signal comes when the *thread* that
// forked ends.)
// Report() is for one thread.
class ParentLink {
 public:
  // Starts to listen. `channel` must outlive this object; nobody else may receive from it.
  explicit ParentLink(ChildChannel& channel);
  // Stops listening, joins.
  ~ParentLink();
  ParentLink(const ParentLink&) = delete;
  ParentLink& operator=(const ParentLink&) = delete;

  // Sends a Phase if its name is new or the last one is a second old. Cancelled: the agent wants
  // this work to end. Unavailable: it is gone.
  absl::Status Report(absl::string_view phase, int64_t counter);
  // A line for people.
  absl::Status ReportLine(const std::string& line);

 private:
  void Listen();

  ChildChannel& channel_;
  std::string phase_;
  absl::Time sent_ = absl::InfinitePast();
  std::atomic<bool> cancelled_ = false;
  std::atomic<bool> finished_ = false;
  std::thread listener_;  // Last: it uses all of the above. Joined by the destructor.
};

}  // namespace lathe
