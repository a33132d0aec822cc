#pragma once

#include <string>
#include <vector>

namespace lathe {

// kTool: what a tool answered.
enum class Role { kSystem, kUser, kAssistant, kTool };

struct Message {
  Role role = Role::kUser;
  std::string content;  // UTF-8. Special strings in it stay plain text.
  bool trained = true;  // Only looked at for kAssistant.
  // Further fields as a template sees them (tool_calls, reasoning_content, name): a JSON object, or
  // empty. Strings in it are the message's own text, like `content`.
  std::string fields = {};
  // Without it the template sees no content; `content` is empty then.
  bool has_content = true;
};

using Conversation = std::vector<Message>;

}  // namespace lathe
