#pragma once

#include <string>

#include "common/metrics/metrics.h"
#include "worker/agent/agent_probe.h"

namespace lathe::agent {

// The worker's metrics, all named here; docs/metrics.md, "Worker". Thread-safe.
class MetricsProbe final : public AgentProbe {
 public:
  // `registry` outlives the probe.
  MetricsProbe(MetricRegistry& registry, const std::string& version);

  void SetSlots(int total, int busy) override;
  void OnAssignmentStarted(absl::string_view kind) override;
  void OnAssignmentEnded(absl::string_view kind, absl::string_view cause) override;
  void AddChildProcesses(int delta) override;
  void SetCacheBytes(int64_t bytes) override;
  void SetConnected(bool connected) override;
  void OnConnect() override;
  void OnHeartbeat() override;
  void OnDownload(int64_t bytes) override;
  void OnUpload(int64_t bytes) override;
  void OnUpdatesDropped(int64_t num) override;
  void OnLogLinesDropped(int64_t num) override;
  void OnStep(const v1::StepStats& step) override;

 private:
  const Metric build_;
  const Metric slots_;
  const Metric slots_busy_;
  const Metric assignments_started_;
  const Metric assignments_ended_;
  const Metric child_processes_;
  const Metric cache_bytes_;
  const Metric connected_;
  const Metric connects_;
  const Metric heartbeats_;
  const Metric download_bytes_;
  const Metric upload_bytes_;
  const Metric updates_dropped_;
  const Metric log_lines_dropped_;
  const Metric step_seconds_;
  const Metric last_step_;
};

}  // namespace lathe::agent
