#include "worker/data/row.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "worker/data/tool_use.h"
#include "worker/data/utf8.h"

namespace lathe {
namespace {

using Json = nlohmann::json;

// "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error ...: last read:
// '...'" without the parts that help nobody, at most 160 bytes.
std::string ReasonOf(const Json::parse_error& error) {
  absl::string_view what = error.what();
  const size_t colon = what.find(": ");
  if (colon != absl::string_view::npos) what.remove_prefix(colon + 2);
  return absl::StrCat("byte ", error.byte, ": ", OneLine(what, 160));
}

// The one place that meets the library's exceptions.
bool ParseJson(absl::string_view text, Json& json, Findings& findings) {
  try {
    json = Json::parse(text.begin(), text.end());
    return true;
  } catch (const Json::parse_error& error) {
    return findings.Add(ProblemCode::kBadJson, ReasonOf(error));
  } catch (const Json::out_of_range& error) {  // A number such as 1e999.
    return findings.Add(ProblemCode::kBadJson, OneLine(error.what(), 160));
  }
}

bool ParseObject(absl::string_view text, Json& json, Findings& findings) {
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid != absl::string_view::npos) {
    return findings.Add(
        ProblemCode::kBadUtf8,
        absl::StrCat("byte ", invalid + 1, " is 0x",
                     absl::Hex(static_cast<uint8_t>(text[invalid]), absl::kZeroPad2),
                     "; must be UTF-8"));
  }
  const int depth = BracketDepth(text);
  if (depth > kMaxJsonDepth) {
    return findings.Add(ProblemCode::kTooDeep, absl::StrCat("nests ", depth, " levels; at most ",
                                                            kMaxJsonDepth, " are allowed"));
  }
  if (!ParseJson(text, json, findings)) return false;
  if (json.is_object()) return true;
  return findings.Add(ProblemCode::kNotAnObject,
                      absl::StrCat("is ", json.type_name(), "; must be an object"));
}

// Null where the key is missing or null: exporters write null for "none".
const Json* Find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

bool CheckString(const Json& value, absl::string_view name, Findings& findings) {
  if (value.is_string()) return true;
  return findings.Add(ProblemCode::kWrongType,
                      absl::StrCat(name, " is ", value.type_name(), "; must be a string"));
}

// Leaves `text` empty if the key is missing.
bool ReadOptional(const Json& object, const char* key, std::string& text, Findings& findings) {
  const Json* value = Find(object, key);
  if (value == nullptr) return true;
  if (!CheckString(*value, key, findings)) return false;
  text = value->get_ref<const std::string&>();
  return true;
}

bool IsBlank(absl::string_view text) { return absl::StripAsciiWhitespace(text).empty(); }

bool IsControl(char c) {
  const auto byte = static_cast<uint8_t>(c);
  return (byte < 0x20 && c != '\t' && c != '\n' && c != '\r') || byte == 0x7F;
}

bool CheckCharacters(absl::string_view text, absl::string_view name, Findings& findings) {
  if (text.find('\0') != absl::string_view::npos) {
    return findings.Add(ProblemCode::kNulCharacter,
                        absl::StrCat(name, " contains U+0000, which text does not"));
  }
  const auto* control = std::find_if(text.begin(), text.end(), IsControl);
  if (control != text.end()) {
    findings.Add(ProblemCode::kControlCharacter,
                 absl::StrCat(name, " contains the control character 0x",
                              absl::Hex(static_cast<uint8_t>(*control), absl::kZeroPad2)));
  }
  return true;
}

bool AddMessage(Row& row, Role role, std::string content, bool trained, absl::string_view name,
                Findings& findings, bool may_be_blank = false) {
  if (!may_be_blank && IsBlank(content)) {
    const auto code =
        role == Role::kAssistant ? ProblemCode::kEmptyAnswer : ProblemCode::kEmptyMessage;
    return findings.Add(code, absl::StrCat(name, " is empty"));
  }
  if (row.conversation.size() >= kMaxMessages) {
    return findings.Add(ProblemCode::kTooManyMessages,
                        absl::StrCat("has more than ", kMaxMessages, " messages"));
  }
  if (!CheckCharacters(content, name, findings)) return false;
  row.conversation.push_back({role, std::move(content), trained});
  return true;
}

// --- alpaca ---

bool AddHistory(const Json& object, Row& row, Findings& findings) {
  const Json* history = Find(object, "history");
  if (history == nullptr) return true;
  const auto refuse = [&](absl::string_view what) {
    return findings.Add(ProblemCode::kBadHistory,
                        absl::StrCat(what, "; must be a list of [question, answer] pairs"));
  };
  if (!history->is_array()) return refuse(absl::StrCat("history is ", history->type_name()));
  for (size_t i = 0; i < history->size(); ++i) {
    const Json& pair = (*history)[i];
    const std::string name = absl::StrCat("history[", i, "]");
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string())
      return refuse(absl::StrCat(name, " is no pair of strings"));
    if (!AddMessage(row, Role::kUser, pair[0], true, name + "[0]", findings)) return false;
    if (!AddMessage(row, Role::kAssistant, pair[1], true, name + "[1]", findings)) return false;
  }
  return true;
}

bool ReadAlpaca(const Json& object, Row& row, Findings& findings) {
  row.form = RowForm::kAlpaca;
  std::string system, instruction, input, output;
  if (!ReadOptional(object, "system", system, findings) ||
      !ReadOptional(object, "instruction", instruction, findings) ||
      !ReadOptional(object, "input", input, findings) ||
      !ReadOptional(object, "output", output, findings)) {
    return false;
  }
  for (const char* key : {"instruction", "output"}) {
    if (!object.contains(key))
      return findings.Add(ProblemCode::kMissingField, absl::StrCat(key, " is missing"));
  }
  if (!IsBlank(system) && !AddMessage(row, Role::kSystem, system, false, "system", findings))
    return false;
  if (!AddHistory(object, row, findings)) return false;
  // The join of LLaMA-Factory and Alpaca-like sets: semantics.md, section 3.
  const std::string join = IsBlank(instruction) || IsBlank(input) ? "" : "\n";
  const std::string question =
      IsBlank(input) ? instruction
                     : absl::StrCat(IsBlank(instruction) ? "" : instruction, join, input);
  return AddMessage(row, Role::kUser, question, true, "instruction", findings) &&
         AddMessage(row, Role::kAssistant, output, true, "output", findings);
}

// --- messages ---

bool ReadWeight(const Json& message, Role role, absl::string_view name, bool& trained,
                Findings& findings) {
  const Json* weight = Find(message, "weight");
  if (weight == nullptr) return true;
  if (!weight->is_number() || (*weight != 0 && *weight != 1)) {
    return findings.Add(
        ProblemCode::kBadWeight,
        absl::StrCat(name, ".weight is ", Quoted(weight->dump()), "; must be 0 or 1"));
  }
  trained = *weight == 1;
  if (trained && role != Role::kAssistant) {
    findings.Add(ProblemCode::kWeightIgnored,
                 absl::StrCat(name, ".weight is 1, but only assistant messages are trained"));
  }
  return true;
}

bool ReadRole(const Json& message, absl::string_view name, Role& role, Findings& findings) {
  const Json* value = Find(message, "role");
  if (value == nullptr)
    return findings.Add(ProblemCode::kMissingField, absl::StrCat(name, ".role is missing"));
  if (!CheckString(*value, absl::StrCat(name, ".role"), findings)) return false;
  const std::pair<absl::string_view, Role> roles[] = {{"system", Role::kSystem},
                                                      {"user", Role::kUser},
                                                      {"assistant", Role::kAssistant},
                                                      {"tool", Role::kTool}};
  for (const auto& [text, known] : roles) {
    if (value->get_ref<const std::string&>() != text) continue;
    role = known;
    return true;
  }
  return findings.Add(ProblemCode::kUnknownRole,
                      absl::StrCat(name, ".role is ", Quoted(value->get_ref<const std::string&>()),
                                   "; must be system, user, assistant or tool"));
}

void WarnOfUnknownFields(const Json& object, absl::string_view prefix,
                         std::initializer_list<absl::string_view> known, Findings& findings) {
  constexpr size_t kMaxNamed = 16;
  size_t unknown = 0;
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    if (++unknown > kMaxNamed) continue;
    findings.Add(ProblemCode::kUnknownField, absl::StrCat(prefix, Quoted(key), " is not used"));
  }
  if (unknown > kMaxNamed) {
    findings.Add(ProblemCode::kUnknownField,
                 absl::StrCat(prefix, unknown - kMaxNamed, " more fields are not used"));
  }
}

// `content` may be missing where there are calls; a tool may answer with nothing.
bool ReadContent(const Json& message, Role role, bool trained, bool has_calls,
                 const std::string& name, Row& row, Findings& findings) {
  if (!message.contains("content") && !has_calls)
    return findings.Add(ProblemCode::kMissingField, absl::StrCat(name, ".content is missing"));
  const Json* value = Find(message, "content");
  if (value != nullptr && !CheckString(*value, name + ".content", findings)) return false;
  if (value == nullptr && role == Role::kTool)
    return findings.Add(ProblemCode::kMissingField, absl::StrCat(name, ".content is missing"));
  const bool may_be_blank = has_calls || role == Role::kTool;
  if (!AddMessage(row, role, value == nullptr ? "" : value->get<std::string>(), trained,
                  name + ".content", findings, may_be_blank)) {
    return false;
  }
  row.conversation.back().has_content = value != nullptr;
  return true;
}

// Of a whole row: its tools, and what is known of its messages besides their text.
struct ToolUse {
  ToolList tools;
  std::vector<OrderedJson> fields;  // One per message.
};

bool ReadMessage(const Json& message, const OrderedJson& ordered, const std::string& name, Row& row,
                 ToolUse& use, Findings& findings) {
  if (!message.is_object()) {
    return findings.Add(ProblemCode::kWrongType,
                        absl::StrCat(name, " is ", message.type_name(), "; must be an object"));
  }
  Role role = Role::kUser;
  if (!ReadRole(message, name, role, findings)) return false;
  WarnOfUnknownFields(message, "a message's ",
                      {"role", "content", "weight", "name", "tool_calls", "tool_call_id",
                       "reasoning_content", "thinking", "reasoning"},
                      findings);
  bool trained = true;
  OrderedJson& fields = use.fields.emplace_back();
  if (!ReadWeight(message, role, name, trained, findings) ||
      !ReadFields(ordered, role, name, use.tools, fields, findings) ||
      !ReadContent(message, role, trained, fields.contains("tool_calls"), name, row, findings)) {
    return false;
  }
  if (!fields.empty()) row.conversation.back().fields = fields.dump();
  return true;
}

absl::string_view RoleName(Role role) {
  switch (role) {
    case Role::kSystem:
      return "system";
    case Role::kUser:
      return "user";
    case Role::kAssistant:
      return "assistant";
    case Role::kTool:
      return "tool";
  }
  return "";
}

// Who speaks after message `index`; tools may go on.
Role RoleAfter(const Conversation& conversation, size_t index, const ToolUse& use) {
  switch (conversation[index].role) {
    case Role::kUser:
    case Role::kTool:
      return Role::kAssistant;
    case Role::kAssistant:
      return use.fields[index].contains("tool_calls") ? Role::kTool : Role::kUser;
    case Role::kSystem:
      break;
  }
  return Role::kUser;
}

// system? (user (assistant tool+)* assistant)+
bool CheckOrder(const Conversation& conversation, const ToolUse& use, Findings& findings) {
  for (size_t i = 0; i < conversation.size(); ++i) {
    const Role role = conversation[i].role;
    const Role expected = i == 0 ? Role::kUser : RoleAfter(conversation, i - 1, use);
    const bool is_next_tool = role == Role::kTool && i > 0 && conversation[i - 1].role == role;
    if (role == expected || is_next_tool || (i == 0 && role == Role::kSystem)) continue;
    // An answer of a tool has a reason of its own (CheckCalls).
    if (role == Role::kTool) continue;
    return findings.Add(ProblemCode::kBadRoleOrder,
                        absl::StrCat("messages[", i, "] is of ", RoleName(role), "; must be of ",
                                     RoleName(expected),
                                     " (order: system once or never, then user and assistant by "
                                     "turns, and tool after an assistant's calls)"));
  }
  if (!conversation.empty() && conversation.back().role == Role::kAssistant) return true;
  return findings.Add(ProblemCode::kBadRoleOrder, "the last message must be of assistant");
}

// Templates print tools and calls with their keys in order; other rows do without that.
bool NeedsOrder(const Json& object) {
  if (object.contains("tools")) return true;
  const Json& messages = object.at("messages");
  return messages.is_array() && std::any_of(messages.begin(), messages.end(), [](const Json& one) {
           return one.is_object() &&
                  std::any_of(one.items().begin(), one.items().end(), [](const auto& item) {
                    return item.key() != "role" && item.key() != "content" &&
                           item.key() != "weight";
                  });
         });
}

const OrderedJson& OrderedMessage(const OrderedJson& row, size_t index) {
  static const OrderedJson* const kPlain = new OrderedJson(OrderedJson::object());
  return row.is_object() ? row.at("messages")[index] : *kPlain;
}

bool ReadMessages(const Json& object, const OrderedJson& ordered, Row& row, Findings& findings) {
  row.form = RowForm::kMessages;
  const Json* messages = Find(object, "messages");
  if (messages == nullptr || !messages->is_array()) {
    return findings.Add(ProblemCode::kWrongType,
                        absl::StrCat("messages is ", object.at("messages").type_name(),
                                     "; must be a list of objects"));
  }
  ToolUse use;
  if (Find(object, "tools") != nullptr && !ReadTools(ordered.at("tools"), use.tools, findings))
    return false;
  for (size_t i = 0; i < messages->size(); ++i) {
    if (!ReadMessage((*messages)[i], OrderedMessage(ordered, i), absl::StrCat("messages[", i, "]"),
                     row, use, findings)) {
      return false;
    }
  }
  row.tools = std::move(use.tools.json);
  return CheckCalls(row.conversation, use.fields, findings) &&
         CheckOrder(row.conversation, use, findings);
}

// --- both ---

bool ReadTask(const Json& object, Row& row, Findings& findings) {
  if (!ReadOptional(object, "task", row.task, findings)) return false;
  if (row.task.size() > kMaxTaskBytes) {
    return findings.Add(ProblemCode::kBadTask, absl::StrCat("task has ", row.task.size(),
                                                            " bytes; at most ", kMaxTaskBytes));
  }
  const auto is_line_text = [](char c) { return static_cast<uint8_t>(c) >= 0x20 && c != 0x7F; };
  if (std::all_of(row.task.begin(), row.task.end(), is_line_text)) return true;
  return findings.Add(ProblemCode::kBadTask, "task contains a control character or line break");
}

bool ReadSplit(const Json& object, Row& row, Findings& findings) {
  const Json* split = Find(object, "split");
  if (split == nullptr) return true;
  if (*split == "train") row.split = RowSplit::kTraining;
  if (*split == "validation") row.split = RowSplit::kValidation;
  if (row.split != RowSplit::kUnset) return true;
  const std::string got =
      split->is_string() ? Quoted(split->get_ref<const std::string&>()) : split->type_name();
  return findings.Add(ProblemCode::kBadSplit,
                      absl::StrCat("split is ", got, "; must be train or validation"));
}

bool CheckTrained(const Row& row, Findings& findings) {
  const bool any = std::any_of(row.conversation.begin(), row.conversation.end(), [](const auto& m) {
    return m.role == Role::kAssistant && m.trained;
  });
  if (any) return true;
  return findings.Add(ProblemCode::kNoTrainedToken, "every assistant message has weight 0");
}

bool ReadForm(const Json& object, absl::string_view text, Row& row, Findings& findings) {
  const bool is_messages = object.contains("messages");
  const bool is_alpaca = object.contains("instruction") || object.contains("output");
  if (is_messages && is_alpaca) {
    return findings.Add(ProblemCode::kAmbiguousForm,
                        "has messages and also instruction or output; must have one of the forms");
  }
  if (is_messages) {
    WarnOfUnknownFields(object, "", {"messages", "tools", "task", "split"}, findings);
    OrderedJson ordered;
    if (NeedsOrder(object) && !ParseOrdered(text, ordered, findings)) return false;
    return ReadMessages(object, ordered, row, findings);
  }
  if (is_alpaca) {
    WarnOfUnknownFields(object, "",
                        {"instruction", "input", "output", "system", "history", "task", "split"},
                        findings);
    return ReadAlpaca(object, row, findings);
  }
  return findings.Add(ProblemCode::kUnknownForm,
                      "has neither messages nor instruction and output; see docs/data.md");
}

}  // namespace

int BracketDepth(absl::string_view json_text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < json_text.size(); ++i) {
    const char c = json_text[i];
    if (in_string && c == '\\')
      ++i;
    else if (c == '"')
      in_string = !in_string;
    else if (in_string)
      continue;
    else if (c == '{' || c == '[')
      deepest = std::max(deepest, ++depth);
    else if (c == '}' || c == ']')
      --depth;
  }
  return deepest;
}

absl::string_view RowFormName(RowForm form) {
  return form == RowForm::kAlpaca ? "alpaca" : "messages";
}

ParsedRow ParseRow(absl::string_view json_text) {
  ParsedRow parsed;
  Findings& findings = parsed.findings;
  Json object;
  Row row;
  if (ParseObject(json_text, object, findings) && ReadForm(object, json_text, row, findings) &&
      ReadTask(object, row, findings) && ReadSplit(object, row, findings) &&
      CheckTrained(row, findings)) {
    parsed.row = std::move(row);
  }
  return parsed;
}

}  // namespace lathe
