#include <unistd.h>

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/output.h"
#include "cli/terminal.h"
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

// Every prompt is a conversation of its own; with --beside both models answer it.
absl::StatusOr<int> AnswerPrompts(const GlobalOptions& global, const ChatOptions& options,
                                  Connection& connection) {
  const bool color = UseColor("auto");
  std::vector<std::string> models;
  if (!options.beside.empty()) models.push_back(options.beside);
  models.push_back(options.model);
  // All prompts of one model, then of the other: the service holds one adapter at a time.
  std::vector<std::vector<std::string>> answers(models.size());
  for (size_t m = 0; m < models.size(); ++m) {
    for (const std::string& prompt : options.prompts) {
      Messages messages = Start(options);
      messages.push_back(MakeMessage("user", prompt));
      LATHE_ASSIGN_OR_RETURN(std::string answer, Ask(connection, options, models[m], messages,
                                                     [](const std::string&) {}));
      answers[m].push_back(std::move(answer));
    }
  }
  for (size_t p = 0; p < options.prompts.size(); ++p) {
    if (!global.json) {
      absl::PrintF("%s\n", Paint(absl::StrCat("> ", options.prompts[p]), Color::kGreen, color));
    }
    nlohmann::json line = {{"prompt", options.prompts[p]}, {"answers", nlohmann::json::object()}};
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
  if (options.prompts.empty() && (global.json || !options.beside.empty())) {
    return absl::InvalidArgumentError("--json and --beside need at least one --prompt");
  }
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  if (options.prompts.empty()) return Converse(options, *connection);
  return AnswerPrompts(global, options, *connection);
}

}  // namespace lathe::cli
