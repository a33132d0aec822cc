#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/conversation.h"

// What a chat template does with tools and thoughts, found by rendering small conversations.

namespace lathe {

struct TemplateTraits {
  // The list of tools, the calls of an assistant message, its thought (a field of its own): whether
  // the text has them. A template that refuses a conversation with them counts as having them: it
  // speaks for itself.
  bool shows_tools = false;
  bool shows_calls = false;
  bool shows_thoughts = false;
  // The arguments of a call must be JSON text; most templates want the object.
  bool takes_text_arguments = false;
};

using RenderFn = std::function<absl::StatusOr<std::string>(const Conversation& conversation,
                                                           absl::string_view tools)>;

TemplateTraits FindTraits(const RenderFn& render);

// What a message's fields hold.
struct MessageParts {
  bool has_calls = false;
  bool has_thought = false;
};
MessageParts PartsOf(const Message& message);

// The conversation with the arguments of its calls in the form that the template takes: OpenAI's
// data has JSON text, Hugging Face's has objects. Text is written as Python's json.dumps does.
Conversation WithFittingArguments(const TemplateTraits& traits, Conversation conversation);

}  // namespace lathe
