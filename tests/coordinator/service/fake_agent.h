#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/rpc/token.h"
#include "coordinator/service/server.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "lathe/internal/v1/agent.grpc.pb.h"

namespace lathe::testing {

namespace pb = ::lathe::internal::v1;

// A worker played by the test, over real gRPC. Sends heartbeats by itself unless told not to.
class FakeAgent {
 public:
  struct Options {
    std::string name = "worker-1";
    int slots = 1;
    bool heartbeats = true;
    std::vector<std::string> running = {};
  };

  FakeAgent(const std::string& endpoint, const Token& token, Options options);
  ~FakeAgent();  // Breaks the connection.

  // Waits for the next message of that kind; fails the test after 10 s.
  pb::Assignment NextAssignment();
  std::string NextCancel();
  pb::Rendezvous NextRendezvous();
  pb::ChatStart NextChat();
  std::string NextChatCancel();
  // The status of the stream; waits for its end.
  grpc::Status End();
  bool registered();

  void Step(const pb::Assignment& assignment, int64_t step, int64_t num_steps = 3);
  void Evaluate(const pb::Assignment& assignment, bool before, double loss);
  void Rendezvous(const pb::Assignment& assignment, int port);
  void Progress(const pb::Assignment& assignment, const std::string& line);
  void Fail(const pb::Assignment& assignment, const std::string& cause, const std::string& message);
  void Finish(const pb::Assignment& assignment, const pb::Done& done,
              const std::vector<std::pair<std::string, std::string>>& outputs);
  // One of a single file, whose bytes are not brought.
  void Checkpoint(const pb::Assignment& assignment, int64_t step, const std::string& bytes);
  // Says that it made a file, without bringing its bytes.
  void FinishWithout(const pb::Assignment& assignment, const pb::Done& done,
                     const std::string& path, const std::string& bytes);
  // Waits until the coordinator has dealt with everything sent so far.
  void Sync();
  void Leave();  // Ends the stream itself.

  grpc::Status Upload(const pb::Assignment& assignment, const std::string& bytes);
  std::string Download(const v1::BlobRef& blob);
  void Log(const pb::Assignment& assignment, const std::string& text);
  grpc::Status Say(const std::string& chat, const std::vector<std::string>& texts, bool end);

  // Does the whole of an assignment: import, check, preview and prepare with made-up results, a
  // rank of a training with three steps.
  void Do(const pb::Assignment& assignment);

 private:
  pb::CoordinatorMessage Next(pb::CoordinatorMessage::MessageCase kind);
  void Update(pb::AssignmentUpdate update);
  pb::AssignmentUpdate UpdateOf(const pb::Assignment& assignment);
  void Write(const pb::AgentMessage& message);
  int64_t Beat();
  void ReadLoop();
  void BeatLoop(const std::stop_token& stop);
  std::unique_ptr<grpc::ClientContext> NewContext() const;

  const Token token_;
  std::unique_ptr<pb::AgentService::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<pb::AgentMessage, pb::CoordinatorMessage>> stream_;
  Mutex write_mutex_;
  int64_t last_beat_ ABSL_GUARDED_BY(write_mutex_) = 0;
  Mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<pb::CoordinatorMessage> inbox_ ABSL_GUARDED_BY(mutex_);
  int64_t answered_ ABSL_GUARDED_BY(mutex_) = 0;  // Of the heartbeats.
  bool registered_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
  std::jthread reader_;
  std::jthread beater_;
};

}  // namespace lathe::testing
