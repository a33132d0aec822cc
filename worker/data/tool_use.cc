#include "worker/data/tool_use.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/data/row.h"
#include "worker/data/utf8.h"

namespace lathe {
namespace {

constexpr size_t kMaxNameBytes = 256;
constexpr double kTwoTo63 = 9223372036854775808.0;

bool IsNull(const OrderedJson& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null();
}

// What templates could not print as it was written, or not at all.
bool CheckValues(const OrderedJson& value, absl::string_view path, ProblemCode code,
                 Findings& findings) {
  if (value.is_number_float() && std::abs(value.get<double>()) >= kTwoTo63) {
    return findings.Add(code, absl::StrCat(path, " has a number of 2^63 or more; must be less"));
  }
  if (value.is_string() && value.get_ref<const std::string&>().find('\0') != std::string::npos) {
    return findings.Add(ProblemCode::kNulCharacter,
                        absl::StrCat(path, " contains U+0000, which text does not"));
  }
  if (!value.is_structured()) return true;
  return std::all_of(value.begin(), value.end(), [&](const OrderedJson& item) {
    return CheckValues(item, path, code, findings);
  });
}

bool ReadName(const OrderedJson& function, const std::string& path, ProblemCode code,
              std::string& name, Findings& findings) {
  if (IsNull(function, "name")) return findings.Add(code, absl::StrCat(path, ".name is missing"));
  const OrderedJson& value = function.at("name");
  if (!value.is_string())
    return findings.Add(code,
                        absl::StrCat(path, ".name is ", value.type_name(), "; must be a string"));
  name = value.get<std::string>();
  if (!name.empty() && name.size() <= kMaxNameBytes) return true;
  return findings.Add(code, absl::StrCat(path, ".name has ", name.size(), " bytes; must have 1 to ",
                                         kMaxNameBytes));
}

// `function` of a tool or call; the object itself if it has none and may do without.
const OrderedJson* FunctionOf(const OrderedJson& outer, bool may_lack) {
  if (IsNull(outer, "function")) return may_lack ? &outer : nullptr;
  const OrderedJson& inner = outer.at("function");
  return inner.is_object() ? &inner : nullptr;
}

bool CheckType(const OrderedJson& object, const std::string& path, ProblemCode code,
               Findings& findings) {
  if (IsNull(object, "type") || object.at("type") == "function") return true;
  return findings.Add(code, absl::StrCat(path, ".type is ", Quoted(object.at("type").dump()),
                                         "; must be \"function\""));
}

bool ReadTool(const OrderedJson& tool, const std::string& path, ToolList& list,
              Findings& findings) {
  constexpr auto kCode = ProblemCode::kBadTools;
  if (!tool.is_object())
    return findings.Add(kCode, absl::StrCat(path, " is ", tool.type_name(), "; must be an object"));
  // A bare function may have any `type` of its own.
  if (!IsNull(tool, "function") && !CheckType(tool, path, kCode, findings)) return false;
  const OrderedJson* function = FunctionOf(tool, /*may_lack=*/true);
  if (function == nullptr) return findings.Add(kCode, absl::StrCat(path, ".function is no object"));
  std::string name;
  const std::string inner = function == &tool ? path : path + ".function";
  if (!ReadName(*function, inner, kCode, name, findings)) return false;
  if (!IsNull(*function, "parameters") && !function->at("parameters").is_object())
    return findings.Add(kCode, absl::StrCat(inner, ".parameters is no object"));
  if (std::find(list.names.begin(), list.names.end(), name) != list.names.end())
    return findings.Add(kCode, absl::StrCat(path, " is a second tool of name ", Quoted(name)));
  list.names.push_back(std::move(name));
  return CheckValues(tool, path, kCode, findings);
}

bool CheckArguments(const OrderedJson& function, const std::string& path, Findings& findings) {
  constexpr auto kCode = ProblemCode::kBadToolCall;
  if (IsNull(function, "arguments"))
    return findings.Add(kCode, absl::StrCat(path, ".arguments is missing; must be an object"));
  const OrderedJson& arguments = function.at("arguments");
  if (arguments.is_object()) return CheckValues(arguments, path, kCode, findings);
  OrderedJson parsed;
  if (arguments.is_string()) {
    Findings ignored;
    (void)ParseOrdered(arguments.get_ref<const std::string&>(), parsed, ignored);
  }
  if (parsed.is_object()) return CheckValues(parsed, path, kCode, findings);
  return findings.Add(kCode, absl::StrCat(path, ".arguments is ", Quoted(arguments.dump()),
                                          "; must be an object, or a string with the JSON of one"));
}

bool CheckCall(const OrderedJson& call, const std::string& path, const ToolList& tools,
               Findings& findings) {
  constexpr auto kCode = ProblemCode::kBadToolCall;
  if (!call.is_object())
    return findings.Add(kCode, absl::StrCat(path, " is ", call.type_name(), "; must be an object"));
  if (!CheckType(call, path, kCode, findings)) return false;
  if (!IsNull(call, "id") && !call.at("id").is_string())
    return findings.Add(kCode, absl::StrCat(path, ".id is no string"));
  const OrderedJson* function = FunctionOf(call, /*may_lack=*/false);
  if (function == nullptr)
    return findings.Add(kCode, absl::StrCat(path, ".function is missing; must be an object"));
  std::string name;
  const std::string inner = path + ".function";
  if (!ReadName(*function, inner, kCode, name, findings)) return false;
  if (std::find(tools.names.begin(), tools.names.end(), name) == tools.names.end()) {
    const std::string known =
        tools.names.empty() ? "the row has no tools" : "it is not among the row's tools";
    return findings.Add(ProblemCode::kUnknownTool,
                        absl::StrCat(inner, ".name is ", Quoted(name), "; ", known));
  }
  return CheckArguments(*function, inner, findings);
}

bool ReadCalls(const OrderedJson& calls, const std::string& path, const ToolList& tools,
               OrderedJson& fields, Findings& findings) {
  if (!calls.is_array() || calls.empty() || calls.size() > kMaxCalls) {
    return findings.Add(ProblemCode::kBadToolCall,
                        absl::StrCat(path, " is no list of 1 to ", kMaxCalls, " calls"));
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    if (!CheckCall(calls[i], absl::StrCat(path, "[", i, "]"), tools, findings)) return false;
  }
  fields["tool_calls"] = calls;
  return true;
}

bool ReadText(const OrderedJson& message, const char* key, const std::string& path,
              OrderedJson& fields, Findings& findings) {
  if (IsNull(message, key)) return true;
  const OrderedJson& value = message.at(key);
  if (!value.is_string()) {
    return findings.Add(
        ProblemCode::kWrongType,
        absl::StrCat(path, ".", key, " is ", value.type_name(), "; must be a string"));
  }
  fields[key] = value;
  return CheckValues(value, path, ProblemCode::kWrongType, findings);
}

// The calls that wait for an answer: how often each id was called.
struct Waiting {
  std::map<std::string, int> ids;
  size_t num_calls = 0;
};

Waiting WaitingFor(const OrderedJson& fields) {
  Waiting waiting;
  if (!fields.contains("tool_calls")) return waiting;
  for (const OrderedJson& call : fields.at("tool_calls")) {
    ++waiting.num_calls;
    if (!IsNull(call, "id")) ++waiting.ids[call.at("id").get<std::string>()];
  }
  return waiting;
}

bool TakeAnswer(const OrderedJson& fields, const std::string& path, Waiting& waiting,
                Findings& findings) {
  constexpr auto kCode = ProblemCode::kToolWithoutCall;
  if (waiting.num_calls == 0)
    return findings.Add(kCode, absl::StrCat(path, " answers no call: none waits for an answer"));
  --waiting.num_calls;
  if (!fields.contains("tool_call_id") || waiting.ids.empty()) return true;
  const std::string& id = fields.at("tool_call_id").get_ref<const std::string&>();
  const auto found = waiting.ids.find(id);
  if (found != waiting.ids.end() && found->second-- > 0) return true;
  return findings.Add(kCode, absl::StrCat(path, ".tool_call_id is ", Quoted(id),
                                          "; no call of that id waits for an answer"));
}

}  // namespace

bool ParseOrdered(absl::string_view text, OrderedJson& json, Findings& findings) {
  if (BracketDepth(text) > kMaxJsonDepth) {
    return findings.Add(ProblemCode::kTooDeep,
                        absl::StrCat("nests deeper than the ", kMaxJsonDepth, " levels allowed"));
  }
  // Each lookup of an ordered object goes through its keys: their number must have a bound.
  std::vector<size_t> num_keys;
  bool is_too_large = false;
  const auto bound = [&](int /*depth*/, OrderedJson::parse_event_t event, OrderedJson&) {
    if (event == OrderedJson::parse_event_t::object_start) num_keys.push_back(0);
    if (event == OrderedJson::parse_event_t::object_end && !num_keys.empty()) num_keys.pop_back();
    if (event != OrderedJson::parse_event_t::key || num_keys.empty()) return true;
    const bool fits = ++num_keys.back() <= kMaxKeys;
    is_too_large = is_too_large || !fits;
    return fits;
  };
  json = OrderedJson::parse(text.begin(), text.end(), bound, /*allow_exceptions=*/false);
  if (json.is_discarded()) return findings.Add(ProblemCode::kBadJson, "is not JSON");
  if (!is_too_large) return true;
  return findings.Add(ProblemCode::kBadTools,
                      absl::StrCat("has an object of more than ", kMaxKeys, " keys"));
}

bool ReadTools(const OrderedJson& tools, ToolList& list, Findings& findings) {
  if (!tools.is_array() || tools.size() > kMaxTools) {
    return findings.Add(ProblemCode::kBadTools,
                        absl::StrCat("tools is no list of at most ", kMaxTools, " functions"));
  }
  for (size_t i = 0; i < tools.size(); ++i) {
    if (!ReadTool(tools[i], absl::StrCat("tools[", i, "]"), list, findings)) return false;
  }
  if (!tools.empty()) list.json = tools.dump();
  return true;
}

bool ReadFields(const OrderedJson& message, Role role, const std::string& path,
                const ToolList& tools, OrderedJson& fields, Findings& findings) {
  fields = OrderedJson::object();
  if (role == Role::kAssistant) {
    for (const char* key : {"reasoning_content", "thinking", "reasoning"}) {
      if (!ReadText(message, key, path, fields, findings)) return false;
    }
    if (!IsNull(message, "tool_calls") &&
        !ReadCalls(message.at("tool_calls"), path + ".tool_calls", tools, fields, findings)) {
      return false;
    }
  }
  if (role == Role::kTool && !ReadText(message, "tool_call_id", path, fields, findings))
    return false;
  return ReadText(message, "name", path, fields, findings);
}

bool CheckCalls(const Conversation& conversation, const std::vector<OrderedJson>& fields,
                Findings& findings) {
  Waiting waiting;
  for (size_t i = 0; i < conversation.size(); ++i) {
    const std::string path = absl::StrCat("messages[", i, "]");
    if (conversation[i].role == Role::kTool) {
      if (!TakeAnswer(fields[i], path, waiting, findings)) return false;
    } else {
      waiting = WaitingFor(fields[i]);
    }
  }
  return true;
}

}  // namespace lathe
