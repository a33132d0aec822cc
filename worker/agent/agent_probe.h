#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "lathe/v1/jobs.pb.h"

namespace lathe::agent {

// What the agent counts. The default counts nothing; metrics_probe.h feeds /metrics.
// Implementations are thread-safe and do not block.
class AgentProbe {
 public:
  virtual ~AgentProbe() = default;
  virtual void SetSlots(int /*total*/, int /*busy*/) {}
  // `kind` is "import", "check", "preview", "prepare", "train" or "serve".
  virtual void OnAssignmentStarted(absl::string_view /*kind*/) {}
  // `cause` is "ok" or that of Ended.cause.
  virtual void OnAssignmentEnded(absl::string_view /*kind*/, absl::string_view /*cause*/) {}
  virtual void AddChildProcesses(int /*delta*/) {}
  virtual void SetCacheBytes(int64_t /*bytes*/) {}
  virtual void SetConnected(bool /*connected*/) {}
  virtual void OnConnect() {}
  virtual void OnHeartbeat() {}
  virtual void OnDownload(int64_t /*bytes*/) {}
  virtual void OnUpload(int64_t /*bytes*/) {}
  virtual void OnUpdatesDropped(int64_t /*num*/) {}
  virtual void OnLogLinesDropped(int64_t /*num*/) {}
  virtual void OnStep(const v1::StepStats& /*step*/) {}
};

}  // namespace lathe::agent
