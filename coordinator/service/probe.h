#pragma once

#include <map>
#include <string>

#include "common/metrics/metrics.h"
#include "coordinator/core/fleet.h"
#include "coordinator/core/records.h"
#include "lathe/v1/jobs.pb.h"

namespace lathe {

// The coordinator's metrics: docs/metrics.md is the table, a test holds both together. Thread-safe.
class Probe {
 public:
  explicit Probe(MetricRegistry& registry);

  // --- Jobs
  void CountJobs(const std::map<JobState, int64_t>& counts);  // At start.
  // `before`: null for a new job.
  void OnJobChange(const JobState* before, const Job& job);
  void OnStep(const JobId& job, const v1::StepStats& step);
  // Takes the job's series away.
  void OnJobEnd(const JobId& job);

  void OnFleet(const Fleet& fleet);
  void OnBlobBytes(int64_t bytes);

  // --- RPC; `method` is "/package.Service/Method".
  void OnCallStarted(const std::string& method);
  void OnCallHandled(const std::string& method, int code, absl::Duration time);
  Metric refused() const { return refused_; }

 private:
  void SetEvaluation(const Job& job, const char* when, const Evaluation& evaluation);

  MetricRegistry& registry_;
  const Metric jobs_;
  const Metric queue_wait_;
  const Metric step_;
  const Metric loss_;
  const Metric learning_rate_;
  const Metric grad_norm_;
  const Metric tokens_;
  const Metric tokens_per_second_;
  const Metric step_seconds_;
  const Metric heldout_loss_;
  const Metric attempt_;
  const Metric workers_;
  const Metric slots_;
  const Metric blob_bytes_;
  const Metric build_;
  const Metric refused_;
  const Metric started_;
  const Metric handled_;
  const Metric handling_;
};

}  // namespace lathe
