#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "worker/data/problem.h"
#include "worker/text/conversation.h"

// Tools of a row, the calls of its assistant messages and what the tools answered: OpenAI's form.
// Used by rows and chats alike. Pure.

namespace lathe {

// Keeps the order of keys: templates print it.
using OrderedJson = nlohmann::ordered_json;

inline constexpr size_t kMaxTools = 128;
inline constexpr size_t kMaxCalls = 128;
inline constexpr size_t kMaxKeys = 512;  // Of one object of tools or arguments.

// False with a finding: not JSON, or an object with more than kMaxKeys keys.
bool ParseOrdered(absl::string_view text, OrderedJson& json, Findings& findings);

struct ToolList {
  std::string json;  // As templates see it; empty: no tools.
  std::vector<std::string> names;
};
// A list of {"type": "function", "function": {"name", "description", "parameters"}}, or of the
// inner objects. An empty list is no tools.
bool ReadTools(const OrderedJson& tools, ToolList& list, Findings& findings);

// The fields of a message that a template sees besides role and content: `tool_calls` and a thought
// (reasoning_content, thinking or reasoning) of an assistant, `name`, `tool_call_id` of a tool.
// `path` names the message. Fills `fields`; other keys are not looked at.
bool ReadFields(const OrderedJson& message, Role role, const std::string& path,
                const ToolList& tools, OrderedJson& fields, Findings& findings);

// Calls and answers belong together: tools answer the calls right before them, each at most once,
// and who called a tool waits for its answer. `fields` has an entry per message.
bool CheckCalls(const Conversation& conversation, const std::vector<OrderedJson>& fields,
                Findings& findings);

}  // namespace lathe
