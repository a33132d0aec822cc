#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lathe/internal/v1/agent.pb.h"

// The agent's only door to the network, so that its run loop is tested without one. The real one
// is grpc_coordinator_channel.h; the fake is in tests/testing.

namespace lathe::agent {

namespace pb = ::lathe::internal::v1;

// One Connect stream. One thread reads while one other writes; Close may come from any thread.
class Session {
 public:
  virtual ~Session() = default;
  // False: the stream is broken; Finish says why.
  virtual bool Write(const pb::AgentMessage& message) = 0;
  virtual bool Read(pb::CoordinatorMessage& message) = 0;
  // Says that nothing more is written: the worker leaves. Read returns false once the coordinator
  // has taken note. From the writing thread.
  virtual void Leave() = 0;
  // Makes Read and Write return false soon; the coordinator takes it for a broken connection.
  virtual void Close() = 0;
  // REQUIRES: neither Read nor Write runs; called once.
  virtual absl::Status Finish() = 0;
};

// The text of one chat. Writes come from one thread; Close may come from any.
class TextStream {
 public:
  virtual ~TextStream() = default;
  virtual bool Write(const pb::PublishTextRequest& message) = 0;
  virtual void Close() = 0;
  // Aborted: nobody listens any more. REQUIRES: called once, after the last Write.
  virtual absl::Status Finish() = 0;
};

// Thread-safe. Calls block; each ends soon with Cancelled once `stop` is requested.
class CoordinatorChannel {
 public:
  using Sink = absl::FunctionRef<absl::Status(absl::string_view)>;
  // The next bytes, at most 1 MiB; empty at the end.
  using Source = absl::FunctionRef<absl::StatusOr<std::string>()>;

  virtual ~CoordinatorChannel() = default;
  virtual std::unique_ptr<Session> Connect() = 0;
  virtual std::unique_ptr<TextStream> OpenText() = 0;
  // Ends at the first error of `sink`, and returns it.
  virtual absl::Status DownloadBlob(const std::string& sha256, int64_t offset, Sink sink,
                                    const std::stop_token& stop) = 0;
  virtual absl::StatusOr<pb::GetBlobStatusResponse> GetBlobStatus(const std::string& sha256,
                                                                  const std::stop_token& stop) = 0;
  virtual absl::Status UploadBlob(const pb::UploadBlobStart& start, Source source,
                                  const std::stop_token& stop) = 0;
  virtual absl::Status PublishLogs(const std::vector<pb::PublishLogsRequest>& batch,
                                   const std::stop_token& stop) = 0;
};

}  // namespace lathe::agent
