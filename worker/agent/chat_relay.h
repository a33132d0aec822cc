#pragma once

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <stop_token>
#include <string>
#include <thread>

#include "common/base/mutex.h"
#include "lathe/internal/v1/agent.pb.h"
#include "worker/agent/coordinator_channel.h"
#include "worker/agent/supervisor.h"
#include "worker/agent/transfers.h"

namespace lathe::agent {

// The chats of one serve assignment: fetches their adapters one after the other, hands them to the
// child, and carries its text to the coordinator on a stream per chat. At most kMaxChats at a time;
// another one is answered with RESOURCE_EXHAUSTED. Thread-safe.
class ChatRelay {
 public:
  static constexpr size_t kMaxChats = 64;

  // `adapter_folder` gets one folder per adapter.
  ChatRelay(CoordinatorChannel& channel, Transfers& transfers, Supervisor& supervisor,
            std::filesystem::path adapter_folder);

  void Start(const pb::ChatStart& chat);
  void Cancel(const std::string& chat_id);
  // From the child. A chat that nobody listens to is cancelled there.
  void OnText(const pb::GeneratedText& text);
  // Makes an OnText that blocks return.
  void Abort();
  // Answers every open chat with an error. REQUIRES: the child is gone.
  void Finish(const std::string& reason);

 private:
  struct Chat {
    bool cancelled = false;              // Guarded by mu_.
    std::unique_ptr<TextStream> stream;  // Opened at the first text; set under mu_ and writing.
    bool finished = false;               // Guarded by writing.
    // Taken before mu_. Held across a write: a stream takes one at a time.
    Mutex writing;
  };
  void Run(const std::stop_token& stop);
  absl::Status Hand(const pb::ChatStart& chat, const std::stop_token& stop);
  // The adapter's folder, one per content. What has been fetched is left as it is: the child may be
  // reading it for an earlier chat.
  absl::StatusOr<std::filesystem::path> FetchAdapter(const v1::FileTree& adapter,
                                                     const std::stop_token& stop);
  void Reject(const std::string& chat_id, const absl::Status& status);
  // Writes to the chat's stream, opening it; false: it is broken or the chat is unknown.
  bool Publish(const pb::GeneratedText& text);
  void Close(const std::string& chat_id);
  std::shared_ptr<Chat> Find(const std::string& chat_id);  // Null: unknown.
  void TellChild(const std::string& chat_id);

  CoordinatorChannel& channel_;
  Transfers& transfers_;
  Supervisor& supervisor_;
  const std::filesystem::path adapter_folder_;
  std::set<std::filesystem::path> fetched_;  // Of thread_.
  Mutex mu_;
  std::condition_variable_any changed_;
  std::deque<pb::ChatStart> waiting_ ABSL_GUARDED_BY(mu_);
  // Shared with the thread that writes to it without the lock.
  std::map<std::string, std::shared_ptr<Chat>> chats_ ABSL_GUARDED_BY(mu_);
  bool aborted_ ABSL_GUARDED_BY(mu_) = false;
  std::jthread thread_;
};

}  // namespace lathe::agent
