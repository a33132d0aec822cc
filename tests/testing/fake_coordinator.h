#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/base/sha256.h"
#include "worker/agent/coordinator_channel.h"

namespace lathe::testing {

namespace pb = ::lathe::internal::v1;

// A coordinator in memory behind the agent's seam: answers registrations and heartbeats, keeps
// blobs, and records what an agent does in the order it arrives. Thread-safe.
class FakeCoordinator final : public agent::CoordinatorChannel {
 public:
  // What a test may change before or while an agent runs.
  struct Behaviour {
    bool reachable = true;
    bool answer_heartbeats = true;
    absl::Status refusal;  // Of every registration.
    absl::Duration lease = absl::Seconds(30);
    absl::Duration heartbeat_interval = absl::Milliseconds(20);
    absl::Duration orphan_timeout = absl::Seconds(30);
    int cut_downloads = 0;      // So many downloads end after half of what is left.
    int corrupt_downloads = 0;  // So many deliver wrong bytes.
    absl::Status upload_error;
    bool hold_uploads = false;  // They wait until this is false, or for a stop.
    bool listens_to_text = true;
    bool takes_logs = true;
  };

  void Change(const std::function<void(Behaviour&)>& change);
  v1::BlobRef AddBlob(const std::string& bytes);
  static v1::FileTree Tree(const std::map<std::string, v1::BlobRef>& files);

  // To the agent that is connected now.
  void Send(const pb::CoordinatorMessage& message);
  void BreakSession();

  // Waits until `condition` holds for what was recorded; false after 20 s.
  struct Record {
    std::vector<pb::Register> registers;
    std::vector<pb::AssignmentUpdate> updates;
    std::map<std::string, std::string> uploads;  // sha256 -> bytes.
    std::vector<std::string> order;              // "upload SHA", "ended ID".
    std::string logs;
    std::map<std::string, std::string> texts;  // chat -> all its text; ends with "!" when last.
    std::map<std::string, std::string> chat_errors;
    int num_downloads = 0;
    std::vector<int64_t> download_offsets;
    int num_heartbeats = 0;
    int num_goodbyes = 0;
    int num_uploads_begun = 0;
    bool draining = false;  // A heartbeat said so.
  };
  bool WaitFor(const std::function<bool(const Record&)>& condition);
  Record record() const;
  // The `ended` of an assignment, waited for; an empty one if none came.
  pb::Ended WaitForEnd(const std::string& assignment_id);

  std::unique_ptr<agent::Session> Connect() override;
  std::unique_ptr<agent::TextStream> OpenText() override;
  absl::Status DownloadBlob(const std::string& sha256, int64_t offset, Sink sink,
                            const std::stop_token& stop) override;
  absl::StatusOr<pb::GetBlobStatusResponse> GetBlobStatus(const std::string& sha256,
                                                          const std::stop_token& stop) override;
  absl::Status UploadBlob(const pb::UploadBlobStart& start, Source source,
                          const std::stop_token& stop) override;
  absl::Status PublishLogs(const std::vector<pb::PublishLogsRequest>& batch,
                           const std::stop_token& stop) override;

 private:
  class FakeSession;
  class FakeText;
  friend class FakeSession;
  friend class FakeText;

  mutable Mutex mu_;
  std::condition_variable_any changed_;
  Behaviour behaviour_ ABSL_GUARDED_BY(mu_);
  Record record_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::string> blobs_ ABSL_GUARDED_BY(mu_);
  std::deque<pb::CoordinatorMessage> to_agent_ ABSL_GUARDED_BY(mu_);  // Of the live session.
  FakeSession* session_ ABSL_GUARDED_BY(mu_) = nullptr;
};

}  // namespace lathe::testing
