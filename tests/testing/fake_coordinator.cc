#include "tests/testing/fake_coordinator.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace lathe::testing {
namespace {

constexpr std::chrono::seconds kPatience{20};

void Set(google::protobuf::Duration& to, absl::Duration from) {
  to.set_seconds(absl::ToInt64Seconds(from));
  to.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(from % absl::Seconds(1))));
}

}  // namespace

class FakeCoordinator::FakeSession final : public agent::Session {
 public:
  explicit FakeSession(FakeCoordinator& owner) : owner_(owner) {}
  ~FakeSession() override {
    const MutexLock lock(owner_.mu_);
    if (owner_.session_ == this) owner_.session_ = nullptr;
  }

  bool Write(const pb::AgentMessage& message) override {
    const MutexLock lock(owner_.mu_);
    if (closed_) return false;
    if (message.has_register_()) OnRegister(message.register_());
    if (message.has_heartbeat()) OnHeartbeat(message.heartbeat());
    if (message.has_update()) {
      owner_.record_.updates.push_back(message.update());
      if (message.update().has_ended()) {
        owner_.record_.order.push_back("ended " + message.update().assignment_id());
      }
    }
    owner_.changed_.notify_all();
    return !closed_;
  }

  bool Read(pb::CoordinatorMessage& message) override {
    MutexLock lock(owner_.mu_);
    owner_.changed_.wait(lock, [this] { return closed_ || !owner_.to_agent_.empty(); });
    if (closed_) return false;
    message = std::move(owner_.to_agent_.front());
    owner_.to_agent_.pop_front();
    return true;
  }

  void Leave() override {
    const MutexLock lock(owner_.mu_);
    ++owner_.record_.num_goodbyes;
    closed_ = true;
    owner_.changed_.notify_all();
  }

  void Close() override {
    const MutexLock lock(owner_.mu_);
    closed_ = true;
    owner_.changed_.notify_all();
  }

  absl::Status Finish() override {
    const MutexLock lock(owner_.mu_);
    if (!owner_.behaviour_.refusal.ok()) return owner_.behaviour_.refusal;
    return absl::UnavailableError("broken");
  }

  bool closed_ = false;  // Guarded by the owner's mutex.

 private:
  void OnRegister(const pb::Register& hello) {
    owner_.record_.registers.push_back(hello);
    const Behaviour& behaviour = owner_.behaviour_;
    if (!behaviour.refusal.ok()) {
      closed_ = true;
      return;
    }
    pb::CoordinatorMessage answer;
    pb::Registered& registered = *answer.mutable_registered();
    registered.set_protocol(1);
    Set(*registered.mutable_lease(), behaviour.lease);
    Set(*registered.mutable_heartbeat_interval(), behaviour.heartbeat_interval);
    Set(*registered.mutable_orphan_timeout(), behaviour.orphan_timeout);
    owner_.to_agent_.push_back(std::move(answer));
  }

  void OnHeartbeat(const pb::Heartbeat& heartbeat) {
    ++owner_.record_.num_heartbeats;
    owner_.record_.draining |= heartbeat.draining();
    if (!owner_.behaviour_.answer_heartbeats) return;
    pb::CoordinatorMessage answer;
    answer.mutable_heartbeat()->set_sequence(heartbeat.sequence());
    owner_.to_agent_.push_back(std::move(answer));
  }

  FakeCoordinator& owner_;
};

class FakeCoordinator::FakeText final : public agent::TextStream {
 public:
  explicit FakeText(FakeCoordinator& owner) : owner_(owner) {}
  bool Write(const pb::PublishTextRequest& message) override {
    const MutexLock lock(owner_.mu_);
    if (!owner_.behaviour_.listens_to_text) return false;
    std::string& text = owner_.record_.texts[message.chat_id()];
    text += message.text().response().text();
    if (!message.text().response().finish_reason().empty()) text += "!";
    if (message.text().error_code() != 0) {
      owner_.record_.chat_errors[message.chat_id()] = message.text().error();
    }
    owner_.changed_.notify_all();
    return true;
  }
  void Close() override {}
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  FakeCoordinator& owner_;
};

void FakeCoordinator::Change(const std::function<void(Behaviour&)>& change) {
  const MutexLock lock(mu_);
  change(behaviour_);
}

v1::BlobRef FakeCoordinator::AddBlob(const std::string& bytes) {
  v1::BlobRef blob;
  blob.set_sha256(Sha256Hex(bytes));
  blob.set_size(static_cast<int64_t>(bytes.size()));
  const MutexLock lock(mu_);
  blobs_[blob.sha256()] = bytes;
  return blob;
}

v1::FileTree FakeCoordinator::Tree(const std::map<std::string, v1::BlobRef>& files) {
  v1::FileTree tree;
  for (const auto& [path, blob] : files) {
    v1::FileRef& file = *tree.add_files();
    file.set_path(path);
    *file.mutable_blob() = blob;
  }
  return tree;
}

void FakeCoordinator::Send(const pb::CoordinatorMessage& message) {
  const MutexLock lock(mu_);
  to_agent_.push_back(message);
  changed_.notify_all();
}

void FakeCoordinator::BreakSession() {
  const MutexLock lock(mu_);
  if (session_ != nullptr) session_->closed_ = true;
  changed_.notify_all();
}

bool FakeCoordinator::WaitFor(const std::function<bool(const Record&)>& condition) {
  MutexLock lock(mu_);
  return changed_.wait_for(lock, kPatience, [&] { return condition(record_); });
}

FakeCoordinator::Record FakeCoordinator::record() const {
  const MutexLock lock(mu_);
  return record_;
}

pb::Ended FakeCoordinator::WaitForEnd(const std::string& assignment_id) {
  pb::Ended ended;
  WaitFor([&](const Record& record) {
    for (const pb::AssignmentUpdate& update : record.updates) {
      if (update.assignment_id() != assignment_id || !update.has_ended()) continue;
      ended = update.ended();
      return true;
    }
    return false;
  });
  return ended;
}

std::unique_ptr<agent::Session> FakeCoordinator::Connect() {
  auto session = std::make_unique<FakeSession>(*this);
  const MutexLock lock(mu_);
  session->closed_ = !behaviour_.reachable;
  session_ = session.get();
  to_agent_.clear();
  return session;
}

std::unique_ptr<agent::TextStream> FakeCoordinator::OpenText() {
  return std::make_unique<FakeText>(*this);
}

absl::Status FakeCoordinator::DownloadBlob(const std::string& sha256, int64_t offset, Sink sink,
                                           const std::stop_token&) {
  std::string bytes;
  {
    const MutexLock lock(mu_);
    ++record_.num_downloads;
    record_.download_offsets.push_back(offset);
    if (!blobs_.contains(sha256)) return absl::NotFoundError("no such blob");
    bytes = blobs_[sha256].substr(static_cast<size_t>(offset));
    if (behaviour_.cut_downloads > 0) {
      --behaviour_.cut_downloads;
      bytes.resize(bytes.size() / 2);
    } else if (behaviour_.corrupt_downloads > 0) {
      --behaviour_.corrupt_downloads;
      for (char& c : bytes) c = static_cast<char>(c ^ 1);
    }
  }
  return sink(bytes);
}

absl::StatusOr<pb::GetBlobStatusResponse> FakeCoordinator::GetBlobStatus(const std::string& sha256,
                                                                         const std::stop_token&) {
  const MutexLock lock(mu_);
  pb::GetBlobStatusResponse response;
  response.set_complete(record_.uploads.contains(sha256));
  return response;
}

absl::Status FakeCoordinator::UploadBlob(const pb::UploadBlobStart& start, Source source,
                                         const std::stop_token& stop) {
  {
    MutexLock lock(mu_);
    if (!behaviour_.upload_error.ok()) return behaviour_.upload_error;
    ++record_.num_uploads_begun;
    changed_.notify_all();
    if (!changed_.wait(lock, stop, [this] { return !behaviour_.hold_uploads; })) {
      return absl::CancelledError("stopped");
    }
  }
  std::string bytes;
  while (true) {
    absl::StatusOr<std::string> chunk = source();
    if (!chunk.ok()) return chunk.status();
    if (chunk->empty()) break;
    bytes += *chunk;
  }
  const MutexLock lock(mu_);
  record_.uploads[start.blob().sha256()] = bytes;
  record_.order.push_back("upload " + start.blob().sha256());
  return absl::OkStatus();
}

absl::Status FakeCoordinator::PublishLogs(const std::vector<pb::PublishLogsRequest>& batch,
                                          const std::stop_token&) {
  const MutexLock lock(mu_);
  if (!behaviour_.takes_logs) return absl::UnavailableError("busy");
  for (const pb::PublishLogsRequest& request : batch) {
    record_.logs += request.source() + ": " + request.text();
  }
  changed_.notify_all();
  return absl::OkStatus();
}

}  // namespace lathe::testing
