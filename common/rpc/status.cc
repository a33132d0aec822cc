#include "common/rpc/status.h"

#include <algorithm>
#include <string>

namespace lathe {
namespace {

constexpr size_t kMaxMessageBytes = 2048;

std::string OneShortLine(absl::string_view message) {
  std::string line(message.substr(0, kMaxMessageBytes));
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), OneShortLine(status.message()));
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace lathe
