#pragma once

#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/context.h"
#include "common/rpc/token.h"
#include "lathe/v1/admin.grpc.pb.h"
#include "lathe/v1/datasets.grpc.pb.h"
#include "lathe/v1/fleet.grpc.pb.h"
#include "lathe/v1/inference.grpc.pb.h"
#include "lathe/v1/jobs.grpc.pb.h"
#include "lathe/v1/models.grpc.pb.h"

namespace lathe::cli {

inline constexpr absl::Duration kCallDeadline = absl::Seconds(30);

// An authorised connection to one coordinator. Thread-safe.
class Connection {
 public:
  // Finds address and token, and waits up to 5 s until the service answers. Unavailable: it does
  // not.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const GlobalOptions& options);

  // Puts token and deadline into a fresh context. An infinite deadline is for streams.
  void Prepare(grpc::ClientContext& context, absl::Duration deadline = kCallDeadline) const;

  v1::JobService::Stub& jobs() { return *jobs_; }
  v1::DatasetService::Stub& datasets() { return *datasets_; }
  v1::ModelService::Stub& models() { return *models_; }
  v1::InferenceService::Stub& inference() { return *inference_; }
  v1::FleetService::Stub& fleet() { return *fleet_; }
  v1::AdminService::Stub& admin() { return *admin_; }
  const std::string& address() const { return address_; }

 private:
  Connection(std::string address, Token token, std::shared_ptr<grpc::Channel> channel);

  const std::string address_;
  const Token token_;
  const std::shared_ptr<grpc::Channel> channel_;  // Shared with the stubs.
  const std::unique_ptr<v1::JobService::Stub> jobs_;
  const std::unique_ptr<v1::DatasetService::Stub> datasets_;
  const std::unique_ptr<v1::ModelService::Stub> models_;
  const std::unique_ptr<v1::InferenceService::Stub> inference_;
  const std::unique_ptr<v1::FleetService::Stub> fleet_;
  const std::unique_ptr<v1::AdminService::Stub> admin_;
};

// The answer of the service as a Status that remembers that it came from there.
absl::Status FromService(const grpc::Status& status);

// The exit code for a command that ended with `status`: kDone, kUsage, kUnreachable, kRefused or
// kFailed.
int ExitCode(const absl::Status& status);

// Where `lathe up` keeps the coordinator's files below the data folder.
std::filesystem::path CoordinatorDir(const std::filesystem::path& data_dir);

}  // namespace lathe::cli
