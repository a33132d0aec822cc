#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace lathe::cli {
namespace {

using Messages = std::vector<v1::ChatMessage>;

v1::ChatMessage MakeMessage(const std::string& role, const std::string& content) {
  v1::ChatMessage message;
  message.set_role(role);
  message.set_content(content);
  return message;
}

constexpr size_t kMaxFileBytes = size_t{4} << 20;

absl::StatusOr<nlohmann::ordered_json> ReadList(const std::filesystem::path& path) {
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  auto json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_array()) return json;
  return absl::InvalidArgumentError(absl::StrCat(path.string(), ": is no JSON list"));
}

// The text of a key, "" if it is missing or null; what is no text as JSON.
std::string TextOf(const nlohmann::ordered_json& message, const char* key) {
  const auto found = message.find(key);
  if (found == message.end() || found->is_null()) return "";
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  return found->is_string() ? found->get<std::string>() : found->dump(-1, ' ', false, kReplace);
}

absl::StatusOr<Messages> ReadMessages(const std::filesystem::path& path) {
  LATHE_ASSIGN_OR_RETURN(const nlohmann::ordered_json list, ReadList(path));
  Messages messages;
  for (const nlohmann::ordered_json& json : list) {
    if (!json.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path.string(), ": messages[", messages.size(), "] is no object"));
    }
    v1::ChatMessage& message =
        messages.emplace_back(MakeMessage(TextOf(json, "role"), TextOf(json, "content")));
    message.set_tool_calls(TextOf(json, "tool_calls"));
    message.set_reasoning_content(TextOf(json, "reasoning_content"));
    message.set_tool_call_id(TextOf(json, "tool_call_id"));
    message.set_name(TextOf(json, "name"));
  }
  return messages;
}

// One answer; `on_text` gets it piece by piece.
absl::StatusOr<std::string> Ask(Connection& connection, const ChatOptions& options,
                                const std::string& model, const Messages& messages,
                                const std::function<void(const std::string&)>& on_text) {
  v1::ChatRequest request;
  request.set_model(model);
  for (const v1::ChatMessage& message : messages) *request.add_messages() = message;
  request.set_max_tokens(options.max_tokens);
  request.set_temperature(options.temperature);
  request.set_top_p(options.top_p);
  request.set_top_k(options.top_k);
  request.set_repetition_penalty(options.repetition_penalty);
  for (const std::string& stop : options.stop) request.add_stop(stop);
  request.set_seed(options.seed);
  if (!options.tools.empty()) {
    LATHE_ASSIGN_OR_RETURN(const nlohmann::ordered_json tools, ReadList(options.tools));
    request.set_tools(tools.dump());
  }
  grpc::ClientContext context;
  connection.Prepare(context, absl::InfiniteDuration());
  const auto reader = connection.inference().Chat(&context, request);
  std::string answer;
  v1::ChatResponse response;
  while (reader->Read(&response)) {
    answer += response.text();
    on_text(response.text());
  }
  LATHE_RETURN_IF_ERROR(FromService(reader->Finish()));
  return answer;
}

Messages Start(const ChatOptions& options) {
  Messages messages;
  if (!options.system.empty()) messages.push_back(MakeMessage("system", options.system));
  return messages;
}

void PrintAnswer(const std::string& model, const std::string& answer, bool color) {
  absl::PrintF("%s\n%s", Paint(model, Color::kBold, color),
               Wrap(absl::StripAsciiWhitespace(answer), TerminalWidth() - 4, "    "));
}

struct Question {
  std::string shown;
  Messages messages;
};

absl::StatusOr<std::vector<Question>> QuestionsOf(const ChatOptions& options) {
  std::vector<Question> questions;
  if (!options.messages.empty()) {
    LATHE_ASSIGN_OR_RETURN(Messages messages, ReadMessages(options.messages));
    const std::string last = messages.empty() ? "" : messages.back().content();
    questions.push_back({last, std::move(messages)});
  }
  for (const std::string& prompt : options.prompts) {
    Messages messages = Start(options);
    messages.push_back(MakeMessage("user", prompt));
    questions.push_back({prompt, std::move(messages)});
  }
  return questions;
}

// The answers of one model, in the order of the questions. Several are asked for at once: the
// service makes their answers together. All are read at once, or a full window of one would hold up
// the others.
absl::StatusOr<std::vector<std::string>> AskAll(Connection& connection, const ChatOptions& options,
                                                const std::string& model,
                                                const std::vector<Question>& questions) {
  constexpr size_t kTogether = 16;
  const size_t count = questions.size();
  std::vector<absl::StatusOr<std::string>> answers(count, std::string());
  for (size_t begin = 0; begin < count; begin += kTogether) {
    std::vector<std::jthread> readers;
    for (size_t i = begin; i < std::min(begin + kTogether, count); ++i) {
      readers.emplace_back([&, i] {
        answers[i] =
            Ask(connection, options, model, questions[i].messages, [](const std::string&) {});
      });
    }
  }
  std::vector<std::string> texts;
  for (absl::StatusOr<std::string>& answer : answers) {
    if (!answer.ok()) return answer.status();
    texts.push_back(*std::move(answer));
  }
  return texts;
}

// Every question is a conversation of its own; with --beside both models answer it.
absl::StatusOr<int> AnswerQuestions(const GlobalOptions& global, const ChatOptions& options,
                                    Connection& connection) {
  const bool color = UseColor("auto");
  std::vector<std::string> models;
  if (!options.beside.empty()) models.push_back(options.beside);
  models.push_back(options.model);
  LATHE_ASSIGN_OR_RETURN(const std::vector<Question> questions, QuestionsOf(options));
  // All questions to one model, then to the other: a pass through the model is for one adapter.
  std::vector<std::vector<std::string>> answers(models.size());
  for (size_t m = 0; m < models.size(); ++m) {
    LATHE_ASSIGN_OR_RETURN(answers[m], AskAll(connection, options, models[m], questions));
  }
  for (size_t p = 0; p < questions.size(); ++p) {
    if (!global.json) {
      absl::PrintF("%s\n", Paint(absl::StrCat("> ", questions[p].shown), Color::kGreen, color));
    }
    nlohmann::json line = {{"prompt", questions[p].shown}, {"answers", nlohmann::json::object()}};
    for (size_t m = 0; m < models.size(); ++m) {
      line["answers"][models[m]] = answers[m][p];
      if (!global.json) PrintAnswer(models[m], answers[m][p], color);
    }
    constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
    if (global.json) absl::PrintF("%s\n", line.dump(-1, ' ', false, kReplace));
  }
  return kDone;
}

absl::StatusOr<int> Converse(const ChatOptions& options, Connection& connection) {
  const bool color = UseColor("auto");
  const bool terminal = IsTerminal(STDIN_FILENO);
  if (terminal) absl::FPrintF(stderr, "end with Ctrl-D; /new starts afresh\n");
  Messages messages = Start(options);
  std::string line;
  for (;;) {
    if (terminal) absl::PrintF("%s", Paint("> ", Color::kGreen, color));
    std::fflush(stdout);
    if (!std::getline(std::cin, line)) return kDone;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    if (line == "/new") {
      messages = Start(options);
      continue;
    }
    messages.push_back(MakeMessage("user", line));
    LATHE_ASSIGN_OR_RETURN(const std::string answer, Ask(connection, options, options.model,
                                                         messages, [](const std::string& text) {
                                                           absl::PrintF("%s", text);
                                                           std::fflush(stdout);
                                                         }));
    absl::PrintF("\n");
    messages.push_back(MakeMessage("assistant", answer));
  }
}

}  // namespace

absl::StatusOr<int> Chat(const GlobalOptions& global, const ChatOptions& options) {
  const bool is_asked = !options.prompts.empty() || !options.messages.empty();
  if (!is_asked && (global.json || !options.beside.empty())) {
    return absl::InvalidArgumentError(
        "--json and --beside need at least one --prompt, or --messages");
  }
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  if (!is_asked) return Converse(options, *connection);
  return AnswerQuestions(global, options, *connection);
}

}  // namespace lathe::cli
