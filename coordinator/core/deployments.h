#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/assignment.h"

namespace lathe {

// A process that holds one base model and answers chats with it and adapters over it.
struct Deployment {
  std::string base;  // Names it and how it is held.
  std::string errand;
  Assignment assignment;
  std::set<std::string> chats;  // In progress.
  absl::Time last_used;
};

// Which base models are served, and which of them nobody uses any more. Pure bookkeeping,
// thread-compatible; time is passed in.
class Deployments {
 public:
  explicit Deployments(absl::Duration idle_timeout) : idle_timeout_(idle_timeout) {}

  const Deployment* Find(const std::string& base) const;
  void Add(const std::string& base, const std::string& errand, const Assignment& assignment,
           absl::Time now);
  // REQUIRES: the base is deployed.
  void OpenChat(const std::string& base, const std::string& chat, absl::Time now);
  // Where the chat ran; none if it is not open.
  std::optional<Assignment> CloseChat(const std::string& chat, absl::Time now);
  // Its process has ended. Returns the chats that end with it.
  std::vector<std::string> OnEnded(const std::string& errand);
  // Removes those that are idle for too long and returns their errands.
  std::vector<std::string> TakeIdle(absl::Time now);
  absl::Time NextDeadline() const;
  size_t size() const { return by_base_.size(); }

 private:
  const absl::Duration idle_timeout_;
  std::map<std::string, Deployment> by_base_;
};

}  // namespace lathe
