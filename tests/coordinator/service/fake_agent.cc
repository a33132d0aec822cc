#include "tests/coordinator/service/fake_agent.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/rpc/channel.h"

namespace lathe::testing {

constexpr auto kPatience = std::chrono::seconds(10);

FakeAgent::FakeAgent(const std::string& endpoint, const Token& token, Options options)
    : token_(token),
      stub_(pb::AgentService::NewStub(*MakeChannel(endpoint))),
      context_(NewContext()),
      stream_(stub_->Connect(context_.get())) {
  pb::AgentMessage hello;
  pb::Register* info = hello.mutable_register_();
  info->set_min_protocol(1);
  info->set_max_protocol(1);
  info->set_build("test");
  info->set_worker_id(absl::StrCat("wrk-", options.name));
  info->set_name(options.name);
  info->set_slot_kind("cpu");
  info->set_slots(options.slots);
  info->set_threads_per_slot(1);
  for (const std::string& id : options.running) info->add_running_assignments(id);
  Write(hello);
  reader_ = std::jthread([this] { ReadLoop(); });
  if (options.heartbeats)
    beater_ = std::jthread([this](const std::stop_token& stop) { BeatLoop(stop); });
}

FakeAgent::~FakeAgent() {
  beater_.request_stop();
  context_->TryCancel();
}

std::unique_ptr<grpc::ClientContext> FakeAgent::NewContext() const {
  auto context = std::make_unique<grpc::ClientContext>();
  Prepare(*context, token_, absl::InfiniteDuration());
  return context;
}

void FakeAgent::ReadLoop() {
  pb::CoordinatorMessage message;
  while (stream_->Read(&message)) {
    const MutexLock lock(mutex_);
    if (message.has_registered()) {
      registered_ = true;
    } else if (message.has_heartbeat()) {
      answered_ = message.heartbeat().sequence();
    } else {
      inbox_.push_back(message);
    }
    changed_.notify_all();
  }
  const grpc::Status status = stream_->Finish();
  const MutexLock lock(mutex_);
  end_ = status;
  changed_.notify_all();
}

void FakeAgent::BeatLoop(const std::stop_token& stop) {
  while (true) {
    {
      MutexLock lock(mutex_);
      changed_.wait_for(lock, stop, std::chrono::milliseconds(50),
                        [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return end_.has_value(); });
      if (stop.stop_requested() || end_.has_value()) return;
    }
    Beat();
  }
}

int64_t FakeAgent::Beat() {
  const MutexLock lock(write_mutex_);
  pb::AgentMessage beat;
  beat.mutable_heartbeat()->set_sequence(++last_beat_);
  stream_->Write(beat);
  return last_beat_;
}

void FakeAgent::Sync() {
  const int64_t sequence = Beat();
  MutexLock lock(mutex_);
  changed_.wait_for(lock, kPatience, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return answered_ >= sequence || end_.has_value();
  });
  EXPECT_GE(answered_, sequence);
}

void FakeAgent::Write(const pb::AgentMessage& message) {
  const MutexLock lock(write_mutex_);
  stream_->Write(message);
}

pb::CoordinatorMessage FakeAgent::Next(pb::CoordinatorMessage::MessageCase kind) {
  const auto find = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return std::find_if(inbox_.begin(), inbox_.end(),
                        [&](const auto& message) { return message.message_case() == kind; });
  };
  MutexLock lock(mutex_);
  changed_.wait_for(lock, kPatience, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return find() != inbox_.end() || end_.has_value();
  });
  const auto found = find();
  if (found == inbox_.end()) {
    ADD_FAILURE() << "no message of kind " << kind << " came";
    return {};
  }
  const pb::CoordinatorMessage message = *found;
  inbox_.erase(found);
  return message;
}

pb::Assignment FakeAgent::NextAssignment() {
  return Next(pb::CoordinatorMessage::kAssignment).assignment();
}

std::string FakeAgent::NextCancel() {
  return Next(pb::CoordinatorMessage::kCancel).cancel().assignment_id();
}

pb::Rendezvous FakeAgent::NextRendezvous() {
  return Next(pb::CoordinatorMessage::kRendezvous).rendezvous().rendezvous();
}

pb::ChatStart FakeAgent::NextChat() { return Next(pb::CoordinatorMessage::kChat).chat(); }

std::string FakeAgent::NextChatCancel() {
  return Next(pb::CoordinatorMessage::kChatCancel).chat_cancel().chat_id();
}

grpc::Status FakeAgent::End() {
  MutexLock lock(mutex_);
  changed_.wait_for(lock, kPatience,
                    [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return end_.has_value(); });
  return end_.value_or(grpc::Status(grpc::StatusCode::UNKNOWN, "the stream does not end"));
}

bool FakeAgent::registered() {
  MutexLock lock(mutex_);
  changed_.wait_for(lock, kPatience, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return registered_ || end_.has_value();
  });
  return registered_;
}

pb::AssignmentUpdate FakeAgent::UpdateOf(const pb::Assignment& assignment) {
  pb::AssignmentUpdate update;
  update.set_assignment_id(assignment.id());
  update.set_job_id(assignment.job_id());
  update.set_attempt(assignment.attempt());
  return update;
}

void FakeAgent::Update(pb::AssignmentUpdate update) {
  pb::AgentMessage message;
  *message.mutable_update() = std::move(update);
  Write(message);
}

namespace {

void Announce(pb::AssignmentUpdate& update, const std::string& path, const std::string& bytes) {
  v1::FileRef* file = update.mutable_ended()->mutable_outputs()->add_files();
  file->set_path(path);
  file->mutable_blob()->set_sha256(Sha256Hex(bytes));
  file->mutable_blob()->set_size(static_cast<int64_t>(bytes.size()));
}

}  // namespace

void FakeAgent::Step(const pb::Assignment& assignment, int64_t step, int64_t num_steps) {
  pb::AssignmentUpdate update = UpdateOf(assignment);
  v1::StepStats* stats = update.mutable_step();
  stats->set_step(step);
  stats->set_num_steps(num_steps);
  stats->set_loss(10.0 / static_cast<double>(step));
  stats->set_learning_rate(1e-4);
  stats->set_grad_norm(0.5);
  stats->set_trained_tokens(100 + step);
  stats->set_prompt_tokens(50);
  stats->set_padding_tokens(0);
  stats->set_tokens_per_second(1234);
  stats->mutable_step_time()->set_seconds(2);
  stats->mutable_forward_time()->set_nanos(500'000'000);
  Update(std::move(update));
}

void FakeAgent::Evaluate(const pb::Assignment& assignment, bool before, double loss) {
  pb::AssignmentUpdate update = UpdateOf(assignment);
  update.mutable_evaluation()->set_before(before);
  update.mutable_evaluation()->mutable_evaluation()->set_loss(loss);
  Update(std::move(update));
}

void FakeAgent::Rendezvous(const pb::Assignment& assignment, int port) {
  pb::AssignmentUpdate update = UpdateOf(assignment);
  update.mutable_rendezvous()->set_host("127.0.0.1");
  update.mutable_rendezvous()->set_port(port);
  Update(std::move(update));
}

void FakeAgent::Progress(const pb::Assignment& assignment, const std::string& line) {
  pb::AssignmentUpdate update = UpdateOf(assignment);
  update.set_progress(line);
  Update(std::move(update));
}

void FakeAgent::Fail(const pb::Assignment& assignment, const std::string& cause,
                     const std::string& message) {
  pb::AssignmentUpdate update = UpdateOf(assignment);
  update.mutable_ended()->set_cause(cause);
  update.mutable_ended()->set_code(cause == "user" ? 3 : 13);
  update.mutable_ended()->set_message(message);
  Update(std::move(update));
}

void FakeAgent::Finish(const pb::Assignment& assignment, const pb::Done& done,
                       const std::vector<std::pair<std::string, std::string>>& outputs) {
  pb::AssignmentUpdate update = UpdateOf(assignment);
  update.mutable_ended()->set_ok(true);
  *update.mutable_ended()->mutable_done() = done;
  for (const auto& [path, bytes] : outputs) {
    const grpc::Status status = Upload(assignment, bytes);
    EXPECT_TRUE(status.ok()) << status.error_message();
    Announce(update, path, bytes);
  }
  Update(std::move(update));
}

void FakeAgent::FinishWithout(const pb::Assignment& assignment, const pb::Done& done,
                              const std::string& path, const std::string& bytes) {
  pb::AssignmentUpdate update = UpdateOf(assignment);
  update.mutable_ended()->set_ok(true);
  *update.mutable_ended()->mutable_done() = done;
  Announce(update, path, bytes);
  Update(std::move(update));
}

void FakeAgent::Checkpoint(const pb::Assignment& assignment, int64_t step,
                           const std::string& bytes) {
  pb::AssignmentUpdate update = UpdateOf(assignment);
  update.mutable_checkpoint()->set_step(step);
  v1::FileRef& file = *update.mutable_checkpoint()->mutable_files()->add_files();
  file.set_path("state.safetensors");
  file.mutable_blob()->set_sha256(Sha256Hex(bytes));
  file.mutable_blob()->set_size(static_cast<int64_t>(bytes.size()));
  Update(std::move(update));
}

void FakeAgent::Leave() {
  beater_.request_stop();
  if (beater_.joinable()) beater_.join();
  const MutexLock lock(write_mutex_);
  stream_->WritesDone();
}

grpc::Status FakeAgent::Upload(const pb::Assignment& assignment, const std::string& bytes) {
  const auto context = NewContext();
  pb::UploadBlobResponse response;
  const auto writer = stub_->UploadBlob(context.get(), &response);
  pb::UploadBlobRequest request;
  request.mutable_start()->mutable_blob()->set_sha256(Sha256Hex(bytes));
  request.mutable_start()->mutable_blob()->set_size(static_cast<int64_t>(bytes.size()));
  request.mutable_start()->set_job_id(assignment.job_id());
  request.mutable_start()->set_attempt(assignment.attempt());
  writer->Write(request);
  request.set_chunk(bytes);
  writer->Write(request);
  writer->WritesDone();
  return writer->Finish();
}

std::string FakeAgent::Download(const v1::BlobRef& blob) {
  const auto context = NewContext();
  pb::DownloadBlobRequest request;
  request.set_sha256(blob.sha256());
  const auto reader = stub_->DownloadBlob(context.get(), request);
  std::string bytes;
  pb::DownloadBlobResponse response;
  while (reader->Read(&response)) bytes += response.chunk();
  EXPECT_TRUE(reader->Finish().ok());
  return bytes;
}

void FakeAgent::Log(const pb::Assignment& assignment, const std::string& text) {
  const auto context = NewContext();
  pb::PublishLogsResponse response;
  const auto writer = stub_->PublishLogs(context.get(), &response);
  pb::PublishLogsRequest request;
  request.set_job_id(assignment.job_id());
  request.set_assignment_id(assignment.id());
  request.set_source("train rank 0 on worker-1");
  request.set_text(text);
  writer->Write(request);
  writer->WritesDone();
  EXPECT_TRUE(writer->Finish().ok());
}

grpc::Status FakeAgent::Say(const std::string& chat, const std::vector<std::string>& texts,
                            bool end) {
  const auto context = NewContext();
  pb::PublishTextResponse response;
  const auto writer = stub_->PublishText(context.get(), &response);
  pb::PublishTextRequest request;
  request.set_chat_id(chat);
  for (size_t i = 0; i < texts.size(); ++i) {
    request.mutable_text()->mutable_response()->set_text(texts[i]);
    if (end && i + 1 == texts.size())
      request.mutable_text()->mutable_response()->set_finish_reason("stop");
    if (!writer->Write(request)) break;
  }
  writer->WritesDone();
  return writer->Finish();
}

void FakeAgent::Do(const pb::Assignment& assignment) {
  pb::Done done;
  switch (assignment.task().task_case()) {
    case pb::Task::kImport:
      done.set_architecture("llama");
      done.set_parameters(1000);
      done.set_template_sha256("t");
      return Finish(assignment, done, {{"config.json", "{}"}, {"model.safetensors", "weights"}});
    case pb::Task::kCheck:
      done.mutable_report()->set_rows(7);
      return Finish(assignment, done, {});
    case pb::Task::kPreview:
      done.mutable_preview()->set_line(3);
      return Finish(assignment, done, {});
    case pb::Task::kPrepare:
      return Finish(assignment, done, {{"train.shard", "a"}, {"validation.shard", "b"}});
    default:
      break;
  }
  done.set_adapter_sha256(Sha256Hex("adapter"));
  done.set_trained_parameters(12);
  done.mutable_parity()->set_positions(16);
  const bool first = assignment.task().train().rank() == 0;
  for (int step = 1; first && step <= 3; ++step) Step(assignment, step);
  Finish(assignment, done,
         first ? std::vector<std::pair<std::string, std::string>>{{"adapter_model.safetensors",
                                                                   "adapter"}}
               : std::vector<std::pair<std::string, std::string>>{});
}

}  // namespace lathe::testing
