#include "worker/trainer/wire_reporter.h"

#include <utility>

#include "absl/time/time.h"

namespace lathe {
namespace {

void SetDuration(absl::Duration from, google::protobuf::Duration& to) {
  const int64_t nanoseconds = absl::ToInt64Nanoseconds(from);
  to.set_seconds(nanoseconds / 1'000'000'000);
  to.set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
}

v1::StepStats ToProto(const StepStats& stats, int64_t attempt) {
  v1::StepStats proto;
  proto.set_step(stats.step);
  proto.set_num_steps(stats.num_steps);
  proto.set_loss(stats.loss);
  proto.set_learning_rate(stats.learning_rate);
  proto.set_grad_norm(stats.grad_norm);
  proto.set_trained_tokens(stats.trained_tokens);
  proto.set_prompt_tokens(stats.prompt_tokens);
  proto.set_padding_tokens(stats.padding_tokens);
  proto.set_tokens_per_second(stats.tokens_per_second);
  SetDuration(stats.step_time, *proto.mutable_step_time());
  SetDuration(stats.forward_time, *proto.mutable_forward_time());
  SetDuration(stats.backward_time, *proto.mutable_backward_time());
  SetDuration(stats.reduce_time, *proto.mutable_reduce_time());
  SetDuration(stats.optimizer_time, *proto.mutable_optimizer_time());
  proto.set_epoch(stats.epoch);
  SetDuration(stats.remaining, *proto.mutable_remaining());
  proto.set_attempt(attempt);
  proto.set_num_micro_batches(stats.num_micro_batches);
  return proto;
}

}  // namespace

WireReporter::WireReporter(ChildChannel& channel, const WireReporterOptions& options)
    : channel_(channel),
      options_(options),
      repeater_([this](const std::stop_token& stop) { Repeat(stop); }) {}

void WireReporter::OnPhase(absl::string_view phase) {
  {
    const MutexLock lock(mu_);
    ++counter_;
    if (phase == "reduce") ++collective_;
    if (phase_ == phase && counter_ > 1) return;
    phase_ = std::string(phase);
  }
  (void)channel_.Send(PhaseMessage());
}

void WireReporter::OnStep(const StepStats& stats) {
  if (!options_.reports_steps) return;
  internal::v1::ChildMessage message;
  *message.mutable_step() = ToProto(stats, options_.attempt);
  (void)channel_.Send(message);
}

void WireReporter::OnEvaluation(bool before_training, const Evaluation& evaluation) {
  if (!options_.reports_steps) return;
  internal::v1::ChildMessage message;
  message.mutable_evaluation()->set_before(before_training);
  v1::Evaluation& proto = *message.mutable_evaluation()->mutable_evaluation();
  proto.set_loss(evaluation.loss);
  proto.set_accuracy(evaluation.accuracy);
  proto.set_tokens(evaluation.tokens);
  proto.set_rows(evaluation.rows);
  (void)channel_.Send(message);
}

void WireReporter::OnCheckpoint(const std::string& name, int64_t step) {
  internal::v1::ChildMessage message;
  message.mutable_checkpoint()->set_name(name);
  message.mutable_checkpoint()->set_step(step);
  (void)channel_.Send(message);
}

void WireReporter::Repeat(const std::stop_token& stop) {
  const auto interval = absl::ToChronoMilliseconds(options_.interval);
  while (!stop.stop_requested()) {
    {
      MutexLock lock(mu_);
      wake_.wait_for(lock, stop, interval, [] { return false; });
    }
    if (!stop.stop_requested()) (void)channel_.Send(PhaseMessage());
  }
}

internal::v1::ChildMessage WireReporter::PhaseMessage() const {
  const MutexLock lock(mu_);
  internal::v1::ChildMessage message;
  message.mutable_phase()->set_name(phase_);
  message.mutable_phase()->set_counter(counter_);
  message.mutable_phase()->set_collective(collective_);
  return message;
}

}  // namespace lathe
