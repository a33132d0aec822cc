#pragma once

#include <string>
#include <vector>

namespace lathe {

enum class Role { kSystem, kUser, kAssistant };

struct Message {
  Role role = Role::kUser;
  std::string content;  // UTF-8. Special strings in it stay plain text.
  bool trained = true;  // Only looked at for kAssistant.
};

using Conversation = std::vector<Message>;

}  // namespace lathe
