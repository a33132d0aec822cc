#include "worker/text/template_traits.h"

#include <initializer_list>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

using Json = nlohmann::ordered_json;

// No template has these words of its own.
constexpr char kProbe[] = "latheprobe";
constexpr char kTools[] =
    R"([{"type": "function", "function": {"name": "latheprobe", "description": "d", "parameters": )"
    R"({"type": "object", "properties": {"a": {"type": "string", "description": "b"}}}}}])";

bool IsShown(const absl::StatusOr<std::string>& text) {
  return !text.ok() || absl::StrContains(*text, kProbe);
}

Conversation Call(absl::string_view arguments) {
  Message call{Role::kAssistant, ""};
  call.fields = absl::StrCat(
      R"({"tool_calls": [{"type": "function", "id": "call00000", "function": {"name": ")", kProbe,
      R"(", "arguments": )", arguments, "}}]}");
  return {{Role::kUser, "a"}, std::move(call)};
}

// Python's json.dumps(value, ensure_ascii=False).
void WriteAsPython(const Json& value, std::string& out) {
  if (!value.is_structured()) {
    absl::StrAppend(&out, value.dump(-1, ' ', false, Json::error_handler_t::replace));
    return;
  }
  out += value.is_object() ? '{' : '[';
  bool is_first = true;
  for (const auto& [key, item] : value.items()) {
    if (!std::exchange(is_first, false)) out += ", ";
    if (value.is_object()) absl::StrAppend(&out, Json(key).dump(), ": ");
    WriteAsPython(item, out);
  }
  out += value.is_object() ? '}' : ']';
}

void Fit(bool as_text, Json& arguments) {
  if (as_text && arguments.is_object()) {
    std::string text;
    WriteAsPython(arguments, text);
    arguments = std::move(text);
  } else if (!as_text && arguments.is_string()) {
    Json parsed = Json::parse(arguments.get_ref<const std::string&>(), nullptr, false);
    if (parsed.is_object()) arguments = std::move(parsed);
  }
}

}  // namespace

TemplateTraits FindTraits(const RenderFn& render) {
  TemplateTraits traits;
  traits.shows_tools = IsShown(render({{Role::kUser, "a"}}, kTools));
  const auto as_object = render(Call(R"({"a": "b"})"), kTools);
  const auto as_text = render(Call(R"("{\"a\": \"b\"}")"), kTools);
  traits.takes_text_arguments = !as_object.ok() && as_text.ok();
  // The name stands among the tools too.
  const auto call = render(Call(traits.takes_text_arguments ? R"("{}")" : "{}"), "");
  traits.shows_calls = IsShown(call);
  Message thought{Role::kAssistant, "c"};
  thought.fields = absl::StrCat(R"({"reasoning_content": ")", kProbe, "\"}");
  traits.shows_thoughts = IsShown(render({{Role::kUser, "a"}, std::move(thought)}, ""));
  return traits;
}

MessageParts PartsOf(const Message& message) {
  MessageParts parts;
  if (message.fields.empty()) return parts;
  const Json fields = Json::parse(message.fields, nullptr, false);
  if (!fields.is_object()) return parts;
  parts.has_calls = fields.contains("tool_calls");
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    parts.has_thought = parts.has_thought || fields.contains(name);
  }
  return parts;
}

Conversation WithFittingArguments(const TemplateTraits& traits, Conversation conversation) {
  for (Message& message : conversation) {
    if (!absl::StrContains(message.fields, "tool_calls")) continue;
    Json fields = Json::parse(message.fields, nullptr, false);
    const auto calls = fields.is_object() ? fields.find("tool_calls") : fields.end();
    if (calls == fields.end() || !calls->is_array()) continue;
    for (Json& call : *calls) {
      Json* function = call.is_object() && call.contains("function") ? &call["function"] : nullptr;
      if (function == nullptr || !function->is_object() || !function->contains("arguments")) {
        continue;
      }
      Fit(traits.takes_text_arguments, (*function)["arguments"]);
    }
    message.fields = fields.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  return conversation;
}

}  // namespace lathe
