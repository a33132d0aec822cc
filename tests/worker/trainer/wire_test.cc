#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/socket.h>

#include <memory>
#include <thread>

#include "common/wire/child_channel.h"
#include "lathe/internal/v1/child.pb.h"
#include "worker/trainer/parent_inbox.h"
#include "worker/trainer/serve_task.h"
#include "worker/trainer/wire_reporter.h"

namespace lathe {
namespace {

namespace pb = internal::v1;

// Both ends of a channel in one process.
class WireTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = ChildChannel::MakePair();
    ASSERT_TRUE(pair.ok()) << pair.status();
    parent_ = std::make_unique<ChildChannel>(std::move(pair->parent));
    child_ = std::make_unique<ChildChannel>(std::move(pair->child));
  }

  void Send(const pb::ParentMessage& message) { ASSERT_TRUE(parent_->Send(message).ok()); }
  void Ask(const std::string& id) {
    pb::ParentMessage message;
    message.mutable_generate()->set_request_id(id);
    Send(message);
  }
  void CancelAnswer(const std::string& id) {
    pb::ParentMessage message;
    message.mutable_cancel_generate()->set_request_id(id);
    Send(message);
  }
  pb::ChildMessage Receive() {
    pb::ChildMessage message;
    EXPECT_TRUE(parent_->Receive(message).ok());
    return message;
  }

  std::unique_ptr<ChildChannel> parent_;
  std::unique_ptr<ChildChannel> child_;
};

using ParentInboxTest = WireTest;
using WireReporterTest = WireTest;

TEST_F(ParentInboxTest, HandsOverTheRendezvous) {
  ParentInbox inbox(*child_, ParentInbox::OnClose::kDrain);
  pb::ParentMessage message;
  message.mutable_rendezvous()->set_host("127.0.0.1");
  message.mutable_rendezvous()->set_port(77);
  Send(message);
  const auto rendezvous = inbox.WaitForRendezvous();
  ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
  EXPECT_EQ(rendezvous->port(), 77);
}

TEST_F(ParentInboxTest, CancelEndsTheWaitForTheRendezvous) {
  ParentInbox inbox(*child_, ParentInbox::OnClose::kDrain);
  pb::ParentMessage message;
  message.mutable_cancel();
  Send(message);
  EXPECT_EQ(inbox.WaitForRendezvous().status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(inbox.cancel_token().stop_requested());
}

TEST_F(ParentInboxTest, GivesQuestionsInOrderAndKnowsWhichIsCancelled) {
  ParentInbox inbox(*child_, ParentInbox::OnClose::kDrain);
  Ask("a");
  Ask("b");
  CancelAnswer("b");
  CancelAnswer("never asked");
  Ask("c");
  EXPECT_EQ(inbox.NextQuestion()->request_id(), "a");
  EXPECT_FALSE(inbox.IsCancelled("a"));
  EXPECT_EQ(inbox.NextQuestion()->request_id(), "b");
  // "c" was received after the cancellation, on the same channel.
  EXPECT_EQ(inbox.NextQuestion()->request_id(), "c");
  EXPECT_FALSE(inbox.IsCancelled("c"));
}

TEST_F(ParentInboxTest, CancelledQuestionIsKnownWhenItsTurnComes) {
  ParentInbox inbox(*child_, ParentInbox::OnClose::kDrain);
  Ask("a");
  CancelAnswer("a");
  Ask("b");
  ASSERT_EQ(inbox.NextQuestion()->request_id(), "a");
  // Becomes true as soon as the reader has come that far.
  while (!inbox.IsCancelled("a")) std::this_thread::yield();
  EXPECT_EQ(inbox.NextQuestion()->request_id(), "b");
}

TEST_F(ParentInboxTest, SeveralQuestionsMayBeAnsweredAtATime) {
  ParentInbox inbox(*child_, ParentInbox::OnClose::kDrain);
  Ask("a");
  Ask("b");
  ASSERT_EQ(inbox.NextQuestion()->request_id(), "a");
  ASSERT_EQ(inbox.NextQuestion()->request_id(), "b");
  EXPECT_FALSE(inbox.TryNextQuestion().has_value());
  CancelAnswer("a");
  while (!inbox.IsCancelled("a")) std::this_thread::yield();
  EXPECT_FALSE(inbox.IsCancelled("b"));
  inbox.Answered("a");
  EXPECT_FALSE(inbox.IsCancelled("a"));
}

TEST_F(ParentInboxTest, ClosedChannelEndsTheQuestions) {
  ParentInbox inbox(*child_, ParentInbox::OnClose::kDrain);
  parent_.reset();
  EXPECT_FALSE(inbox.NextQuestion().has_value());
  EXPECT_TRUE(inbox.IsCancelled("any"));
}

TEST_F(ParentInboxTest, TrainingEndsWithItsAgent) {
  EXPECT_EXIT(
      {
        ParentInbox inbox(*child_, ParentInbox::OnClose::kExit);
        // This is a forked copy: closing its descriptor would leave the original's open.
        shutdown(parent_->fd(), SHUT_RDWR);
        (void)inbox.WaitForRendezvous();
      },
      ::testing::ExitedWithCode(75), "the agent is gone");
}

TEST_F(WireReporterTest, SendsEveryChangeOfPhaseOnce) {
  WireReporter reporter(*child_, {.interval = absl::Hours(1)});
  reporter.OnPhase("load");
  reporter.OnPhase("train");
  reporter.OnPhase("train");
  reporter.OnPhase("reduce");
  EXPECT_EQ(Receive().phase().name(), "load");
  EXPECT_EQ(Receive().phase().name(), "train");
  const pb::ChildMessage last = Receive();
  EXPECT_EQ(last.phase().name(), "reduce");
  EXPECT_EQ(last.phase().counter(), 4);
  EXPECT_EQ(last.phase().collective(), 1);
}

TEST_F(WireReporterTest, RepeatsThePhaseWithoutBeingAsked) {
  WireReporter reporter(*child_, {.interval = absl::Milliseconds(1)});
  EXPECT_EQ(Receive().phase().name(), "start");
  reporter.OnPhase("train");
  pb::ChildMessage message = Receive();
  while (message.phase().name() == "start") message = Receive();
  EXPECT_EQ(message.phase().counter(), 1);
  EXPECT_EQ(Receive().phase().counter(), 1);
}

TEST_F(WireReporterTest, SendsStepsAndEvaluationsOfRank0) {
  WireReporter reporter(*child_, {.attempt = 2, .interval = absl::Hours(1)});
  StepStats stats;
  stats.step = 3;
  stats.loss = 1.5;
  stats.step_time = absl::Milliseconds(1250);
  stats.epoch = 0.5;
  reporter.OnStep(stats);
  reporter.OnEvaluation(true, {.loss = 2, .accuracy = 0.5, .tokens = 10, .rows = 4});
  const pb::ChildMessage step = Receive();
  EXPECT_EQ(step.step().step(), 3);
  EXPECT_EQ(step.step().loss(), 1.5);
  EXPECT_EQ(step.step().attempt(), 2);
  EXPECT_EQ(step.step().step_time().seconds(), 1);
  EXPECT_EQ(step.step().step_time().nanos(), 250'000'000);
  const pb::ChildMessage evaluation = Receive();
  EXPECT_TRUE(evaluation.evaluation().before());
  EXPECT_EQ(evaluation.evaluation().evaluation().rows(), 4);
}

TEST_F(WireReporterTest, OtherRanksReportTheirPhaseOnly) {
  WireReporter reporter(*child_, {.reports_steps = false, .interval = absl::Hours(1)});
  reporter.OnStep({});
  reporter.OnEvaluation(true, {});
  reporter.OnPhase("export");
  EXPECT_EQ(Receive().phase().name(), "export");
}

TEST_F(WireReporterTest, GoneAgentIsNoError) {
  WireReporter reporter(*child_, {.interval = absl::Hours(1)});
  parent_.reset();
  reporter.OnPhase("train");
  reporter.OnStep({});
}

pb::Generate ToolQuestion() {
  pb::Generate generate;
  v1::ChatRequest& request = *generate.mutable_request();
  request.set_tools(R"([{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}])");
  request.add_messages()->set_role("user");
  v1::ChatMessage& call = *request.add_messages();
  call.set_role("assistant");
  call.set_tool_calls(R"([{"id":"1","function":{"name":"f","arguments":{"z":1,"y":2}}}])");
  v1::ChatMessage& answer = *request.add_messages();
  answer.set_role("tool");
  answer.set_tool_call_id("1");
  answer.set_content("7");
  return generate;
}

TEST(QuestionFromTest, ToolsAndCallsAreThoseOfARow) {
  const auto question = QuestionFrom(ToolQuestion());
  ASSERT_TRUE(question.ok()) << question.status();
  EXPECT_EQ(question->tools,
            R"([{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}])");
  ASSERT_EQ(question->messages.size(), 3u);
  EXPECT_EQ(question->messages[1].fields,
            R"({"tool_calls":[{"id":"1","function":{"name":"f","arguments":{"z":1,"y":2}}}]})");
  EXPECT_EQ(question->messages[2].role, Role::kTool);
  EXPECT_EQ(question->messages[2].fields, R"({"tool_call_id":"1"})");
}

TEST(QuestionFromTest, BadToolsAndCallsAreRefused) {
  const auto error = [](const pb::Generate& generate) {
    const absl::Status status = QuestionFrom(generate).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  pb::Generate generate = ToolQuestion();
  generate.mutable_request()->set_tools("{");
  EXPECT_EQ(error(generate), "tools: is not JSON");
  generate.mutable_request()->clear_tools();
  EXPECT_THAT(error(generate), ::testing::HasSubstr("the row has no tools"));
  generate = ToolQuestion();
  generate.mutable_request()->mutable_messages(1)->clear_tool_calls();
  EXPECT_THAT(error(generate), ::testing::HasSubstr("messages[2] answers no call"));
  generate = ToolQuestion();
  generate.mutable_request()->mutable_messages()->RemoveLast();
  EXPECT_THAT(error(generate), ::testing::HasSubstr("the last message"));
}

}  // namespace
}  // namespace lathe
