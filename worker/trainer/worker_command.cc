#include "worker/trainer/worker_command.h"

#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "common/spec_proto/job_spec_proto.h"
#include "common/wire/child_channel.h"
#include "lathe/internal/v1/child.pb.h"
#include "worker/engine/dist/communicator_gloo.h"
#include "worker/trainer/parent_inbox.h"
#include "worker/trainer/serve_task.h"
#include "worker/trainer/torch_guard.h"
#include "worker/trainer/train_task.h"
#include "worker/trainer/wire_reporter.h"

namespace lathe {
namespace {

namespace pb = internal::v1;

absl::StatusOr<int> PortOf(const UniqueFd& fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("rendezvous socket, descriptor ", fd.get()));
  }
  if (address.ss_family != AF_INET) {
    return absl::InvalidArgumentError("rendezvous socket is not IPv4");
  }
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

absl::StatusOr<std::unique_ptr<Communicator>> Join(const pb::Task& task, ParentInbox& inbox) {
  const pb::TrainTask& train = task.train();
  // Taken over even when nobody comes: it must not stay open.
  UniqueFd listen_fd(train.rank() == 0 ? train.rendezvous_fd() : -1);
  if (train.world_size() == 1) return MakeSoloCommunicator();
  GlooOptions options;
  options.rank = train.rank();
  options.size = train.world_size();
  options.attempt = task.attempt();
  if (options.rank == 0) {
    LATHE_ASSIGN_OR_RETURN(options.port, PortOf(listen_fd));
    options.listen_fd = std::move(listen_fd);
  } else {
    LATHE_ASSIGN_OR_RETURN(const pb::Rendezvous rendezvous, inbox.WaitForRendezvous());
    options.host = rendezvous.host();
    options.port = rendezvous.port();
  }
  return JoinGlooGroup(std::move(options));
}

v1::Parity ToProto(const Parity& parity) {
  v1::Parity proto;
  proto.set_max_logit_difference(parity.max_logit_difference);
  proto.set_kl(parity.kl);
  proto.set_greedy_agreement(parity.greedy_agreement);
  proto.set_positions(parity.positions);
  return proto;
}

absl::StatusOr<pb::Done> Train(const pb::Task& task, ChildChannel& channel) {
  LATHE_ASSIGN_OR_RETURN(JobSpec spec, FromProto(task.train().spec()));
  LATHE_RETURN_IF_ERROR(Validate(spec));
  ParentInbox inbox(channel, ParentInbox::OnClose::kExit);
  WireReporter reporter(channel,
                        {.reports_steps = task.train().rank() == 0, .attempt = task.attempt()});
  const TrainTask train{.model_dir = task.train().model_dir(),
                        .shard_dir = task.train().shard_dir(),
                        .output_dir = task.train().output_dir(),
                        .parent_dir = task.train().parent_dir(),
                        .checkpoint_dir = task.train().checkpoint_dir(),
                        .resume_dir = task.train().resume_dir(),
                        .owns_device = task.train().owns_device(),
                        .spec = Resolve(std::move(spec), "run"),
                        .threads = static_cast<int>(task.threads()),
                        .attempt = task.attempt(),
                        .pause = inbox.pause_token(),
                        .checkpoint_published =
                            [&](const std::filesystem::path& dir, int64_t step) {
                              reporter.OnCheckpoint(dir.filename().string(), step);
                            },
                        .join = [&] { return Join(task, inbox); }};
  LATHE_ASSIGN_OR_RETURN(const TrainResult result,
                         RunTrainTask(train, reporter, inbox.cancel_token()));
  pb::Done done;
  done.set_adapter_sha256(result.adapter_sha256);
  done.set_trained_parameters(result.trained_parameters);
  done.set_ledger(result.ledger);
  done.set_resumed_step(result.resumed_step);
  done.set_resume_verified(result.resume_verified);
  if (result.parity.positions > 0) *done.mutable_parity() = ToProto(result.parity);
  return done;
}

absl::StatusOr<pb::Done> RunTask(const pb::ParentMessage& first, ChildChannel& channel) {
  if (first.task().has_train()) return Train(first.task(), channel);
  if (first.task().has_serve()) return RunServeTask(first.task(), channel);
  return absl::InvalidArgumentError("lathe-trainer got a task that is neither train nor serve");
}

absl::Status Report(const absl::StatusOr<pb::Done>& result, ChildChannel& channel) {
  pb::ChildMessage last;
  if (result.ok()) {
    *last.mutable_done() = *result;
  } else {
    last.mutable_failed()->set_code(static_cast<int>(result.status().code()));
    last.mutable_failed()->set_message(std::string(result.status().message()));
  }
  fault::Pass("trainer.result");
  // An agent that is gone needs no answer.
  (void)channel.Send(last);
  fault::Pass("trainer.told");
  return absl::IsCancelled(result.status()) ? absl::OkStatus() : result.status();
}

}  // namespace

absl::Status RunWorkerCommand() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  ChildChannel channel((UniqueFd(kChildChannelFd)));
  fault::Pass("trainer.start");
  pb::ParentMessage first;
  if (const absl::Status status = channel.Receive(first); !status.ok()) {
    return absl::UnavailableError(
        absl::StrCat("worker: no task on descriptor ", kChildChannelFd, ": ", status.message()));
  }
  absl::StatusOr<pb::Done> result = absl::InternalError("the task did not run");
  const absl::Status status = CatchTorch([&] {
    result = RunTask(first, channel);
    return result.status();
  });
  if (!status.ok()) result = status;
  return Report(result, channel);
}

}  // namespace lathe
