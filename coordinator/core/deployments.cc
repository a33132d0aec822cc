#include "coordinator/core/deployments.h"

#include <algorithm>

namespace lathe {

const Deployment* Deployments::Find(const std::string& base) const {
  const auto found = by_base_.find(base);
  return found == by_base_.end() ? nullptr : &found->second;
}

void Deployments::Add(const std::string& base, const std::string& errand,
                      const Assignment& assignment, absl::Time now) {
  by_base_[base] = {
      .base = base, .errand = errand, .assignment = assignment, .chats = {}, .last_used = now};
}

void Deployments::OpenChat(const std::string& base, const std::string& chat, absl::Time now) {
  Deployment& deployment = by_base_.at(base);
  deployment.chats.insert(chat);
  deployment.last_used = now;
}

std::optional<Assignment> Deployments::CloseChat(const std::string& chat, absl::Time now) {
  for (auto& [base, deployment] : by_base_) {
    if (deployment.chats.erase(chat) == 0) continue;
    deployment.last_used = now;
    return deployment.assignment;
  }
  return std::nullopt;
}

std::vector<std::string> Deployments::OnEnded(const std::string& errand) {
  for (auto it = by_base_.begin(); it != by_base_.end(); ++it) {
    if (it->second.errand != errand) continue;
    std::vector<std::string> chats(it->second.chats.begin(), it->second.chats.end());
    by_base_.erase(it);
    return chats;
  }
  return {};
}

std::vector<std::string> Deployments::TakeIdle(absl::Time now) {
  std::vector<std::string> idle;
  std::erase_if(by_base_, [&](const auto& entry) {
    const Deployment& deployment = entry.second;
    if (!deployment.chats.empty() || now - deployment.last_used < idle_timeout_) return false;
    idle.push_back(deployment.errand);
    return true;
  });
  return idle;
}

absl::Time Deployments::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [base, deployment] : by_base_) {
    if (deployment.chats.empty()) next = std::min(next, deployment.last_used + idle_timeout_);
  }
  return next;
}

}  // namespace lathe
