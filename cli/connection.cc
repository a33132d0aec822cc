#include "cli/connection.h"

#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"

namespace lathe::cli {
namespace {

constexpr char kFromService[] = "lathe/from-service";
constexpr auto kConnectWait = std::chrono::seconds(5);

absl::Status Unreachable(absl::string_view what) {
  absl::Status status = absl::UnavailableError(absl::StrCat(what, "; start it with: lathe up"));
  status.SetPayload(kFromService, absl::Cord());
  return status;
}

absl::StatusOr<std::string> FindAddress(const GlobalOptions& options) {
  if (!options.coordinator.empty()) return options.coordinator;
  const std::filesystem::path path = CoordinatorDir(options.data_dir) / "endpoint";
  const absl::StatusOr<std::string> text = ReadFile(path, 4096);
  if (!text.ok())
    return Unreachable(absl::StrCat("no service runs on ", options.data_dir.string()));
  return std::string(absl::StripAsciiWhitespace(*text));
}

}  // namespace

std::filesystem::path CoordinatorDir(const std::filesystem::path& data_dir) {
  return data_dir / "coordinator";
}

Connection::Connection(std::string address, Token token, std::shared_ptr<grpc::Channel> channel)
    : address_(std::move(address)),
      token_(std::move(token)),
      channel_(std::move(channel)),
      jobs_(v1::JobService::NewStub(channel_)),
      datasets_(v1::DatasetService::NewStub(channel_)),
      models_(v1::ModelService::NewStub(channel_)),
      inference_(v1::InferenceService::NewStub(channel_)),
      fleet_(v1::FleetService::NewStub(channel_)),
      admin_(v1::AdminService::NewStub(channel_)) {}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const GlobalOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const std::string address, FindAddress(options));
  const std::filesystem::path token_file = options.token_file.empty()
                                               ? CoordinatorDir(options.data_dir) / "client.token"
                                               : options.token_file;
  LATHE_ASSIGN_OR_RETURN(Token token, ReadTokenFile(token_file));
  LATHE_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, MakeChannel(address));
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + kConnectWait)) {
    return Unreachable(absl::StrCat("the service at ", address, " cannot be reached"));
  }
  return std::unique_ptr<Connection>(new Connection(address, std::move(token), std::move(channel)));
}

void Connection::Prepare(grpc::ClientContext& context, absl::Duration deadline) const {
  lathe::Prepare(context, token_, deadline);
}

absl::Status FromService(const grpc::Status& status) {
  absl::Status out = FromGrpc(status);
  if (!out.ok()) out.SetPayload(kFromService, absl::Cord());
  return out;
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return kDone;
  if (!status.GetPayload(kFromService).has_value()) {
    return status.code() == absl::StatusCode::kInvalidArgument ? kUsage : kFailed;
  }
  // "waits: ..." is the service's own answer that nothing is free; other UNAVAILABLEs come from the
  // connection.
  const bool answered = absl::StartsWith(status.message(), "waits:");
  return absl::IsUnavailable(status) && !answered ? kUnreachable : kRefused;
}

}  // namespace lathe::cli
