#include "cli/watch.h"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/terminal.h"
#include "common/base/mutex.h"
#include "common/base/status.h"

namespace lathe::cli {
namespace {

constexpr absl::Duration kReconnectFor = absl::Minutes(1);
constexpr auto kReconnectPause = std::chrono::seconds(1);
constexpr auto kSignalPoll = std::chrono::milliseconds(100);

// Cancels a call when the user presses Ctrl-C: a blocking Read does not notice by itself.
class CancelOnInterrupt {
 public:
  explicit CancelOnInterrupt(grpc::ClientContext& context)
      : thread_([this, &context](const std::stop_token& stop) {
          MutexLock lock(mutex_);
          // A signal handler may not notify; it can only set a flag, so this looks at it.
          while (!wake_.wait_for(lock, stop, kSignalPoll, [] {
            return InterruptScope::Interrupted();
          }) && !stop.stop_requested()) {
          }
          if (InterruptScope::Interrupted()) context.TryCancel();
        }) {}

 private:
  Mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;
};

class Watcher {
 public:
  Watcher(const GlobalOptions& global, Connection& connection, const std::string& id)
      : json_(global.json), connection_(connection), progress_(IsTerminal(STDERR_FILENO)) {
    request_.set_id(id);
  }

  absl::StatusOr<WatchResult> Run() {
    const InterruptScope interrupt;
    absl::Time give_up = absl::Now() + kReconnectFor;
    for (;;) {
      const grpc::Status status = Stream(give_up);
      progress_.Clear();
      if (InterruptScope::Interrupted()) return Detach();
      if (status.ok()) return End();
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE || absl::Now() > give_up) {
        return FromService(status);
      }
      progress_.Note("the service is away; tries again");
      std::this_thread::sleep_for(kReconnectPause);
    }
  }

 private:
  // One call, from where the last one ended. Every answer gives a new minute to reconnect.
  grpc::Status Stream(absl::Time& give_up) {
    grpc::ClientContext context;
    connection_.Prepare(context, absl::InfiniteDuration());
    const CancelOnInterrupt cancel(context);
    const auto reader = connection_.jobs().WatchJob(&context, request_);
    v1::WatchJobResponse response;
    while (reader->Read(&response)) {
      give_up = absl::Now() + kReconnectFor;
      Handle(response);
    }
    return reader->Finish();
  }

  void Handle(const v1::WatchJobResponse& response) {
    if (response.has_job()) job_ = response.job();
    if (response.has_event()) request_.set_after_sequence(response.event().sequence());
    // A new attempt starts again at step 1.
    if (response.has_event() && response.event().attempt() != attempt_) {
      attempt_ = response.event().attempt();
      request_.set_after_step(0);
    }
    if (response.has_step()) request_.set_after_step(response.step().step());
    if (json_) {
      PrintJson(response);
    } else if (response.has_event()) {
      ShowEvent(response.event());
    } else if (response.has_step()) {
      const v1::StepStats& step = response.step();
      progress_.Show(ProgressLine(step, TerminalWidth()), absl::Now(),
                     step.step() == step.num_steps());
    }
  }

  void ShowEvent(const v1::JobEvent& event) {
    progress_.Note(absl::StrCat(
        StateName(event.state()), event.stage().empty() ? "" : absl::StrCat(" ", event.stage()),
        event.attempt() > 1 ? absl::StrCat(" (attempt ", event.attempt(), ")") : "", ": ",
        event.message()));
  }

  absl::StatusOr<WatchResult> Detach() {
    progress_.Note(absl::StrCat("detached; the job goes on. Come back: lathe jobs watch ",
                                request_.id(), "  End it: lathe jobs cancel ", request_.id()));
    return WatchResult{kDone, true, job_};
  }

  absl::StatusOr<WatchResult> End() {
    grpc::ClientContext context;
    connection_.Prepare(context);
    v1::GetJobRequest request;
    request.set_id(request_.id());
    LATHE_RETURN_IF_ERROR(FromService(connection_.jobs().GetJob(&context, request, &job_)));
    return WatchResult{job_.state() == v1::JOB_STATE_SUCCEEDED ? kDone : kFailed, false, job_};
  }

  const bool json_;
  Connection& connection_;
  Progress progress_;
  v1::WatchJobRequest request_;
  v1::Job job_;
  int64_t attempt_ = 0;
};

}  // namespace

absl::StatusOr<WatchResult> WatchJob(const GlobalOptions& global, Connection& connection,
                                     const std::string& id) {
  return Watcher(global, connection, id).Run();
}

std::string Summary(const v1::Job& job) {
  std::string out = absl::StrCat(job.id(), ": ", StateName(job.state()));
  if (!job.error().empty()) absl::StrAppend(&out, ": ", job.error());
  absl::StrAppend(&out, "\n");
  if (job.resumed_step() > 0) {
    absl::StrAppend(&out, "went on after step ", job.resumed_step(), ": ",
                    job.resume_verified() ? "verified, the bits of the run before"
                                          : "not verified, the checkpoint is of another machine",
                    "\n");
  }
  if (job.has_evaluation_before() && job.has_evaluation_after()) {
    const double before = job.evaluation_before().loss();
    const double after = job.evaluation_after().loss();
    absl::StrAppendFormat(&out, "held-out loss: %.3f before, %.3f after (%+.0f %%), on %d rows\n",
                          before, after, before > 0 ? 100 * (after - before) / before : 0.0,
                          job.evaluation_after().rows());
  }
  if (job.trained_parameters() > 0) {
    absl::StrAppendFormat(&out, "trained: %d of %d parameters (%.2f %%)\n",
                          job.trained_parameters(), job.base_parameters(),
                          100.0 * static_cast<double>(job.trained_parameters()) /
                              static_cast<double>(std::max<int64_t>(1, job.base_parameters())));
  }
  if (!job.result_model().empty()) absl::StrAppend(&out, "model: ", job.result_model(), "\n");
  return out;
}

}  // namespace lathe::cli
