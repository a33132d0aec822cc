#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "tests/testing/fake_coordinator.h"
#include "worker/agent/agent.h"

namespace lathe::agent {

// An agent, a coordinator in memory, and real child processes that follow a script
// (tests/testing/fake_child.cc).
class AgentTest : public ::testing::Test {
 protected:
  using Record = lathe::testing::FakeCoordinator::Record;

  AgentTest() {
    std::filesystem::create_directories(folder_.path() / "programs");
    for (const char* name : {"lathe-trainer", "lathe-prepare"}) {
      std::filesystem::create_symlink(LATHE_FAKE_CHILD, folder_.path() / "programs" / name);
    }
    options_.name = "worker-1";
    options_.slots = 2;
    options_.program_folder = folder_.path() / "programs";
    options_.base_environment = {"PATH=/usr/bin:/bin"};
    options_.cancel_grace = absl::Milliseconds(100);
    options_.exit_grace = absl::Milliseconds(300);
    options_.drain_timeout = absl::ZeroDuration();
    options_.flush_timeout = absl::Milliseconds(200);
    options_.min_backoff = absl::Milliseconds(5);
    options_.max_backoff = absl::Milliseconds(10);
  }

  ~AgentTest() override { StopAgent(); }

  void StartAgent() {
    root_.emplace(*WorkerRoot::Open(folder_.path() / "root"));
    agent_ = std::make_unique<Agent>(options_, *root_, *BlobStore::Open(root_->cache()),
                                     coordinator_, probe_);
    run_ = std::jthread([this] { run_status_ = agent_->Run(); });
    if (expect_registration_) {
      ASSERT_TRUE(
          coordinator_.WaitFor([](const Record& record) { return !record.registers.empty(); }));
    }
  }

  void StopAgent() {
    if (agent_ == nullptr) return;
    agent_->Stop();
    run_.join();
    agent_.reset();
    root_.reset();
  }

  // A prepare assignment whose child follows `script`.
  pb::Assignment Prepare(const std::string& id, const std::string& script) {
    pb::Assignment assignment;
    assignment.set_id(id);
    assignment.set_job_id("job-1");
    assignment.set_attempt(3);
    assignment.set_slots(1);
    assignment.mutable_task()->mutable_prepare();
    (*assignment.mutable_inputs())["data"] =
        coordinator_.Tree({{"rows.jsonl", coordinator_.AddBlob(script)}});
    (*assignment.mutable_inputs())["model"] =
        coordinator_.Tree({{"config.json", coordinator_.AddBlob("{}")}});
    return assignment;
  }

  pb::Assignment Train(const std::string& id, int rank, const std::string& script) {
    pb::Assignment assignment = Prepare(id, "");
    assignment.mutable_inputs()->erase("data");
    assignment.mutable_task()->mutable_train()->set_rank(rank);
    assignment.mutable_task()->mutable_train()->set_world_size(2);
    (*assignment.mutable_inputs())["shards"] =
        coordinator_.Tree({{"script", coordinator_.AddBlob(script)}});
    return assignment;
  }

  void Assign(const pb::Assignment& assignment) {
    pb::CoordinatorMessage message;
    *message.mutable_assignment() = assignment;
    coordinator_.Send(message);
  }

  // Assigns asg-1, a serve whose child follows `script`.
  void Serve(const std::string& script) {
    pb::Assignment serve = Prepare("asg-1", "");
    serve.mutable_inputs()->erase("data");
    serve.mutable_task()->mutable_serve();
    (*serve.mutable_inputs())["model"] =
        coordinator_.Tree({{"script", coordinator_.AddBlob(script)}});
    Assign(serve);
  }

  void Chat(const std::string& id, const v1::FileTree& adapter) {
    pb::CoordinatorMessage message;
    message.mutable_chat()->set_assignment_id("asg-1");
    message.mutable_chat()->set_chat_id(id);
    *message.mutable_chat()->mutable_adapter() = adapter;
    coordinator_.Send(message);
  }

  bool WaitForText(const std::string& chat, const std::string& text) {
    return coordinator_.WaitFor([&](const Record& record) {
      return record.texts.contains(chat) && record.texts.at(chat) == text;
    });
  }

  void Cancel(const std::string& id) {
    pb::CoordinatorMessage message;
    message.mutable_cancel()->set_assignment_id(id);
    coordinator_.Send(message);
  }

  void Pause(const std::string& id) {
    pb::CoordinatorMessage message;
    message.mutable_pause()->set_assignment_id(id);
    coordinator_.Send(message);
  }

  bool WaitForLogs(const std::string& text) {
    return coordinator_.WaitFor(
        [&](const Record& record) { return absl::StrContains(record.logs, text); });
  }

  bool AssignmentFoldersAreGone() {
    return std::filesystem::is_empty(folder_.path() / "root/assignments");
  }

  TempFolder folder_ = *TempFolder::Make("agent_test");
  lathe::testing::FakeCoordinator coordinator_;
  AgentProbe probe_;
  AgentOptions options_;
  bool expect_registration_ = true;
  std::optional<WorkerRoot> root_;
  std::unique_ptr<Agent> agent_;
  absl::Status run_status_;
  std::jthread run_;
};

}  // namespace lathe::agent
