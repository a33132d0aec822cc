#pragma once

#include <condition_variable>
#include <cstdint>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/wire/child_channel.h"
#include "lathe/internal/v1/child.pb.h"
#include "worker/engine/train/train_observer.h"

namespace lathe {

struct WireReporterOptions {
  bool reports_steps = true;  // Rank 0 does; every rank reports its phase.
  int64_t attempt = 1;
  absl::Duration interval = absl::Seconds(1);  // Between two Phase messages at most.
};

// Tells the agent how a training goes. A send that fails is not an error here: the agent is gone
// then, which ParentInbox notices. Called by one thread; a second one repeats the phase, with a
// counter that stands still when the training does.
class WireReporter final : public TrainObserver {
 public:
  // `channel` outlives the reporter.
  WireReporter(ChildChannel& channel, const WireReporterOptions& options);

  void OnPhase(absl::string_view phase) override;
  void OnStep(const StepStats& stats) override;
  void OnEvaluation(bool before_training, const Evaluation& evaluation) override;
  // The checkpoint `name` of the task's folder is whole.
  void OnCheckpoint(const std::string& name, int64_t step);

 private:
  void Repeat(const std::stop_token& stop);
  // The phase with its counters.
  internal::v1::ChildMessage PhaseMessage() const;

  ChildChannel& channel_;
  const WireReporterOptions options_;
  mutable Mutex mu_;
  std::condition_variable_any wake_;
  std::string phase_ ABSL_GUARDED_BY(mu_) = "start";
  int64_t counter_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t collective_ ABSL_GUARDED_BY(mu_) = 0;
  std::jthread repeater_;
};

}  // namespace lathe
