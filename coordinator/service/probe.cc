#include "coordinator/service/probe.h"

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "coordinator/service/convert.h"

namespace lathe {
namespace {

constexpr std::array kStates = {JobState::kQueued,    JobState::kRunning,    JobState::kPausing,
                                JobState::kPaused,    JobState::kCancelling, JobState::kCancelled,
                                JobState::kSucceeded, JobState::kFailed};

Labels StateLabel(JobState state) {
  return {{"state", absl::AsciiStrToLower(JobStateName(state))}};
}

Labels OfJob(const JobId& job) { return {{"job_id", job.value()}}; }

Labels OfJob(const JobId& job, const char* name, const char* value) {
  return {{"job_id", job.value()}, {name, value}};
}

double Seconds(const google::protobuf::Duration& duration) {
  return absl::ToDoubleSeconds(FromProto(duration));
}

// "/package.Service/Method" -> labels.
Labels OfMethod(const std::string& method) {
  const std::vector<std::string> parts = absl::StrSplit(method, '/');
  if (parts.size() != 3) return {{"grpc_service", "unknown"}, {"grpc_method", "unknown"}};
  return {{"grpc_service", parts[1]}, {"grpc_method", parts[2]}};
}

const char* CodeName(int code) {
  constexpr std::array kNames = {"OK",
                                 "CANCELLED",
                                 "UNKNOWN",
                                 "INVALID_ARGUMENT",
                                 "DEADLINE_EXCEEDED",
                                 "NOT_FOUND",
                                 "ALREADY_EXISTS",
                                 "PERMISSION_DENIED",
                                 "RESOURCE_EXHAUSTED",
                                 "FAILED_PRECONDITION",
                                 "ABORTED",
                                 "OUT_OF_RANGE",
                                 "UNIMPLEMENTED",
                                 "INTERNAL",
                                 "UNAVAILABLE",
                                 "DATA_LOSS",
                                 "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < kNames.size() ? kNames[index] : "UNKNOWN";
}

}  // namespace

Probe::Probe(MetricRegistry& registry)
    : registry_(registry),
      jobs_(registry.Gauge("lathe_jobs", "Jobs by state.")),
      queue_wait_(registry.Histogram("lathe_job_queue_wait_seconds",
                                     "Time from a job's creation to its first process.",
                                     DurationBounds())),
      step_(registry.Gauge("lathe_job_step", "Last training step that was reported.")),
      loss_(registry.Gauge("lathe_job_loss", "Training loss of the last step, per trained token.")),
      learning_rate_(registry.Gauge("lathe_job_learning_rate", "Learning rate of the last step.")),
      grad_norm_(registry.Gauge("lathe_job_grad_norm",
                                "Norm of the gradient of the last step, before clipping.")),
      tokens_(registry.Counter("lathe_job_tokens_total",
                               "Tokens of all steps by kind: trained, prompt, padding.")),
      tokens_per_second_(registry.Gauge("lathe_job_tokens_per_second",
                                        "Tokens per second of the last step over all ranks.")),
      step_seconds_(registry.Gauge("lathe_job_step_seconds",
                                   "Time of the last step by phase: forward, backward, reduce, "
                                   "optimizer, other.")),
      heldout_loss_(registry.Gauge("lathe_job_heldout_loss",
                                   "Held-out loss per trained token, before or after training.")),
      attempt_(registry.Gauge("lathe_job_attempt", "Attempt that runs or runs next.")),
      workers_(registry.Gauge("lathe_workers", "Workers by state.")),
      slots_(registry.Gauge("lathe_slots", "Slots of live workers: free or used.")),
      blob_bytes_(registry.Gauge("lathe_blob_bytes", "Bytes in the artifact store.")),
      build_(registry.Gauge("lathe_build_info", "1, with the program and its version.")),
      refused_(registry.Counter("lathe_calls_refused_total",
                                "Calls without the right token, which reach no handler.")),
      started_(registry.Counter("grpc_server_started_total", "Calls that reached a handler.")),
      handled_(registry.Counter("grpc_server_handled_total", "Calls that ended, by code.")),
      handling_(registry.Histogram("grpc_server_handling_seconds", "Time from start to end.",
                                   DurationBounds())) {
  build_.Set({{"program", "lathe-coordinator"}, {"version", kLatheVersion}}, 1);
  refused_.Add({}, 0);
  CountJobs({});
  OnFleet(Fleet(absl::Seconds(1)));
  OnBlobBytes(0);
}

void Probe::CountJobs(const std::map<JobState, int64_t>& counts) {
  for (const JobState state : kStates) {
    const auto found = counts.find(state);
    jobs_.Set(StateLabel(state), found == counts.end() ? 0 : static_cast<double>(found->second));
  }
}

void Probe::OnJobChange(const JobState* before, const Job& job) {
  if (before == nullptr || *before != job.state) {
    if (before != nullptr) jobs_.Add(StateLabel(*before), -1);
    jobs_.Add(StateLabel(job.state), 1);
  }
  if (before != nullptr && *before == JobState::kQueued && job.state == JobState::kRunning &&
      job.attempt == 1 && job.start_time.has_value()) {
    queue_wait_.Observe({}, absl::ToDoubleSeconds(*job.start_time - job.create_time));
  }
  if (IsFinal(job.state)) return;
  attempt_.Set(OfJob(job.id), static_cast<double>(job.attempt));
  if (job.evaluation_before.has_value()) SetEvaluation(job, "before", *job.evaluation_before);
  if (job.evaluation_after.has_value()) SetEvaluation(job, "after", *job.evaluation_after);
}

void Probe::SetEvaluation(const Job& job, const char* when, const Evaluation& evaluation) {
  heldout_loss_.Set(OfJob(job.id, "when", when), evaluation.loss);
}

void Probe::OnJobEnd(const JobId& job) { registry_.RemoveSeries("job_id", job.value()); }

void Probe::OnStep(const JobId& job, const v1::StepStats& step) {
  step_.Set(OfJob(job), static_cast<double>(step.step()));
  loss_.Set(OfJob(job), step.loss());
  learning_rate_.Set(OfJob(job), step.learning_rate());
  grad_norm_.Set(OfJob(job), step.grad_norm());
  tokens_per_second_.Set(OfJob(job), step.tokens_per_second());
  const auto add = [&](const char* kind, int64_t count) {
    tokens_.Add(OfJob(job, "kind", kind), static_cast<double>(std::max<int64_t>(count, 0)));
  };
  add("trained", step.trained_tokens());
  add("prompt", step.prompt_tokens());
  add("padding", step.padding_tokens());
  const double forward = Seconds(step.forward_time());
  const double backward = Seconds(step.backward_time());
  const double reduce = Seconds(step.reduce_time());
  const double optimizer = Seconds(step.optimizer_time());
  const double other =
      std::max(0.0, Seconds(step.step_time()) - forward - backward - reduce - optimizer);
  step_seconds_.Set(OfJob(job, "phase", "forward"), forward);
  step_seconds_.Set(OfJob(job, "phase", "backward"), backward);
  step_seconds_.Set(OfJob(job, "phase", "reduce"), reduce);
  step_seconds_.Set(OfJob(job, "phase", "optimizer"), optimizer);
  step_seconds_.Set(OfJob(job, "phase", "other"), other);
}

void Probe::OnFleet(const Fleet& fleet) {
  int alive = 0;
  int lost = 0;
  int left = 0;
  int total = 0;
  int free = 0;
  for (const auto& [id, worker] : fleet.workers()) {
    alive += worker.state == WorkerState::kAlive ? 1 : 0;
    lost += worker.state == WorkerState::kLost ? 1 : 0;
    left += worker.state == WorkerState::kLeft ? 1 : 0;
    if (worker.state != WorkerState::kAlive) continue;
    total += worker.info.slots;
    free += worker.FreeSlots();
  }
  workers_.Set({{"state", "alive"}}, alive);
  workers_.Set({{"state", "lost"}}, lost);
  workers_.Set({{"state", "left"}}, left);
  slots_.Set({{"state", "free"}}, free);
  slots_.Set({{"state", "used"}}, total - free);
}

void Probe::OnBlobBytes(int64_t bytes) { blob_bytes_.Set({}, static_cast<double>(bytes)); }

void Probe::OnCallStarted(const std::string& method) { started_.Add(OfMethod(method)); }

void Probe::OnCallHandled(const std::string& method, int code, absl::Duration time) {
  Labels labels = OfMethod(method);
  handling_.Observe(labels, absl::ToDoubleSeconds(time));
  labels["grpc_code"] = CodeName(code);
  handled_.Add(labels);
}

}  // namespace lathe
