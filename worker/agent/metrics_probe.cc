#include "worker/agent/metrics_probe.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace lathe::agent {

MetricsProbe::MetricsProbe(MetricRegistry& registry, const std::string& version)
    : build_(registry.Gauge("lathe_build_info", "1, with the program and its version")),
      slots_(registry.Gauge("lathe_worker_slots", "Slots that this worker offers")),
      slots_busy_(registry.Gauge("lathe_worker_slots_busy", "Slots that assignments hold")),
      assignments_started_(
          registry.Counter("lathe_worker_assignments_started_total", "Assignments taken, by kind")),
      assignments_ended_(registry.Counter("lathe_worker_assignments_ended_total",
                                          "Assignments ended, by kind and cause")),
      child_processes_(
          registry.Gauge("lathe_worker_child_processes", "Child processes that live now")),
      cache_bytes_(registry.Gauge("lathe_worker_cache_bytes", "Bytes of blobs in the cache")),
      connected_(registry.Gauge("lathe_worker_connected",
                                "1 while the coordinator holds this worker's registration")),
      connects_(registry.Counter("lathe_worker_connects_total",
                                 "Registrations with the coordinator; above 1 are reconnects")),
      heartbeats_(registry.Counter("lathe_worker_heartbeats_total", "Heartbeats sent")),
      download_bytes_(registry.Counter("lathe_worker_download_bytes_total",
                                       "Bytes of blobs received from the coordinator")),
      upload_bytes_(registry.Counter("lathe_worker_upload_bytes_total",
                                     "Bytes of blobs sent to the coordinator")),
      updates_dropped_(
          registry.Counter("lathe_worker_updates_dropped_total",
                           "Steps and phases dropped because the coordinator was away too long")),
      log_lines_dropped_(registry.Counter("lathe_worker_log_lines_dropped_total",
                                          "Lines of child processes dropped")),
      step_seconds_(registry.Histogram("lathe_worker_step_seconds",
                                       "Wall time of training steps that rank 0 here reported",
                                       DurationBounds())),
      last_step_(registry.Gauge("lathe_worker_last_step_timestamp_seconds",
                                "When rank 0 here last reported a step, as Unix time")) {
  build_.Set({{"program", "lathe-worker"}, {"version", version}}, 1);
  connected_.Set({}, 0);
  child_processes_.Set({}, 0);
  cache_bytes_.Set({}, 0);
  last_step_.Set({}, 0);
  for (const Metric& counter : {connects_, heartbeats_, download_bytes_, upload_bytes_,
                                updates_dropped_, log_lines_dropped_}) {
    counter.Add({}, 0);  // A series from the start: rate() of a first increment is not lost.
  }
}

void MetricsProbe::SetSlots(int total, int busy) {
  slots_.Set({}, total);
  slots_busy_.Set({}, busy);
}
void MetricsProbe::OnAssignmentStarted(absl::string_view kind) {
  assignments_started_.Add({{"kind", std::string(kind)}});
}
void MetricsProbe::OnAssignmentEnded(absl::string_view kind, absl::string_view cause) {
  assignments_ended_.Add({{"kind", std::string(kind)}, {"cause", std::string(cause)}});
}
void MetricsProbe::AddChildProcesses(int delta) { child_processes_.Add({}, delta); }
void MetricsProbe::SetCacheBytes(int64_t bytes) {
  cache_bytes_.Set({}, static_cast<double>(bytes));
}
void MetricsProbe::SetConnected(bool connected) { connected_.Set({}, connected ? 1 : 0); }
void MetricsProbe::OnConnect() { connects_.Add({}); }
void MetricsProbe::OnHeartbeat() { heartbeats_.Add({}); }
void MetricsProbe::OnDownload(int64_t bytes) {
  download_bytes_.Add({}, static_cast<double>(bytes));
}
void MetricsProbe::OnUpload(int64_t bytes) { upload_bytes_.Add({}, static_cast<double>(bytes)); }
void MetricsProbe::OnUpdatesDropped(int64_t num) {
  updates_dropped_.Add({}, static_cast<double>(num));
}
void MetricsProbe::OnLogLinesDropped(int64_t num) {
  log_lines_dropped_.Add({}, static_cast<double>(num));
}
void MetricsProbe::OnStep(const v1::StepStats& step) {
  const double seconds =
      static_cast<double>(step.step_time().seconds()) + step.step_time().nanos() * 1e-9;
  if (seconds >= 0) step_seconds_.Observe({}, seconds);
  last_step_.Set({}, absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
}

}  // namespace lathe::agent
