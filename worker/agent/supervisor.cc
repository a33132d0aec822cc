#include "worker/agent/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/machine_memory.h"
#include "common/base/status.h"
#include "worker/agent/text_line.h"
#include "worker/agent/thread_states.h"

namespace lathe::agent {
namespace {

constexpr absl::Duration kSendTimeout = absl::Seconds(2);
constexpr absl::Duration kGarbageGrace = absl::Milliseconds(200);
constexpr absl::Duration kDrainTimeout = absl::Seconds(5);
constexpr size_t kMaxDrainedBytes = 4 << 20;  // Of a pipe that somebody keeps open.

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

// The read end does not block, so that a drain ends; the child's end must.
absl::StatusOr<Pipe> MakePipe() {
  std::array<int, 2> fds{};
  if (pipe2(fds.data(), O_CLOEXEC) != 0) return ErrnoToStatus(errno, "pipe");
  Pipe made{UniqueFd(fds[0]), UniqueFd(fds[1])};
  if (fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0) return ErrnoToStatus(errno, "pipe: fcntl");
  return made;
}

// A child that does not read must not hold its supervisor.
absl::Status LimitSends(int fd) {
  const timeval timeout = absl::ToTimeval(kSendTimeout);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) == 0) {
    return absl::OkStatus();
  }
  return ErrnoToStatus(errno, "child channel: SO_SNDTIMEO");
}

std::chrono::nanoseconds Chrono(absl::Duration duration) {
  return absl::ToChronoNanoseconds(duration);
}

int PollTimeout(std::chrono::steady_clock::time_point until) {
  if (until == std::chrono::steady_clock::time_point::max()) return -1;
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 3'600'000));
}

}  // namespace

Supervisor::Supervisor(const SupervisorOptions& options, ChildListener& listener)
    : options_(options), listener_(listener), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void Supervisor::Wake() {
  const uint64_t one = 1;
  const ssize_t ignored = write(wake_.get(), &one, sizeof one);
  static_cast<void>(ignored);
}

bool Supervisor::Post(pb::ParentMessage message) {
  {
    const MutexLock lock(mu_);
    if (posted_.size() >= kMaxPosted) return false;
    posted_.push_back(std::move(message));
  }
  Wake();
  return true;
}

void Supervisor::Stop(StopReason reason) {
  {
    const MutexLock lock(mu_);
    if (!stopped_.has_value()) stopped_ = std::move(reason);
  }
  Wake();
}

std::optional<StopReason> Supervisor::stop_reason() const {
  const MutexLock lock(mu_);
  return stopped_;
}

absl::StatusOr<ChildStory> Supervisor::Run(Spawner& spawner, SpawnRequest request,
                                           const pb::Task& task) {
  if (!wake_.valid()) return absl::ResourceExhaustedError("eventfd: no descriptor is free");
  LATHE_ASSIGN_OR_RETURN(ChildChannel::Pair pair, ChildChannel::MakePair());
  LATHE_RETURN_IF_ERROR(LimitSends(pair.parent.get()));
  LATHE_ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
  request.output_fd = pipe.write.get();
  request.inherited.insert(request.inherited.begin(), pair.child.get());
  const int64_t oom_kills_before = NumOomKills();
  LATHE_ASSIGN_OR_RETURN(ChildProcess child, spawner.Spawn(request));
  pair.child.Reset();
  pipe.write.Reset();
  listener_.OnStarted(child.pid());

  ChildChannel channel(std::move(pair.parent));
  pb::ParentMessage first;
  *first.mutable_task() = task;
  channel.Send(first).IgnoreError();  // A child that is gone already shows by its exit.
  std::jthread lines([&](const std::stop_token& stop) { ReadLines(pipe.read.get(), stop); });
  std::jthread messages([&] { ReadMessages(channel); });
  Watch(child, channel);
  const ExitReport exit = child.Reap();
  // What is queued can still be read; then the reader sees the end, whoever holds the other end.
  shutdown(channel.fd(), SHUT_RDWR);
  WaitForReader();
  messages.join();
  lines.request_stop();
  lines.join();
  return Tell(exit, oom_kills_before);
}

void Supervisor::ReadMessages(ChildChannel& channel) {
  absl::Status status;
  while (status.ok()) {
    pb::ChildMessage message;
    status = channel.Receive(message);
    if (!status.ok()) break;
    if (!message.has_done() && !message.has_failed()) {
      listener_.OnMessage(message);
      continue;
    }
    const MutexLock lock(mu_);
    if (message.has_done()) done_ = std::move(*message.mutable_done());
    if (message.has_failed()) failed_ = std::move(*message.mutable_failed());
    Wake();
  }
  {
    const MutexLock lock(mu_);
    reader_end_ = status;
    changed_.notify_all();
  }
  Wake();
}

void Supervisor::ReadLines(int fd, const std::stop_token& stop) {
  const UniqueFd quit(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const std::stop_callback on_stop(stop, [&] {
    const uint64_t one = 1;
    const ssize_t ignored = write(quit.get(), &one, sizeof one);
    static_cast<void>(ignored);
  });
  LineSplitter splitter;
  const auto consume = [this](std::string line) {
    {
      const MutexLock lock(mu_);
      last_line_ = line;
    }
    listener_.OnLine(std::move(line));
  };
  std::array<char, 16 << 10> buffer{};
  size_t drained = 0;
  while (drained < kMaxDrainedBytes) {
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got == 0) break;
    if (got > 0) {
      splitter.Add(absl::string_view(buffer.data(), static_cast<size_t>(got)), consume);
      if (stop.stop_requested()) drained += static_cast<size_t>(got);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN || stop.stop_requested()) break;
    std::array<pollfd, 2> wait_for = {pollfd{fd, POLLIN, 0}, pollfd{quit.get(), POLLIN, 0}};
    poll(wait_for.data(), wait_for.size(), -1);
  }
  splitter.Finish(consume);
}

void Supervisor::Watch(ChildProcess& child, ChildChannel& channel) {
  Clock::time_point kill_at = Clock::time_point::max();
  while (true) {
    Attend(child, channel, kill_at);
    std::array<pollfd, 2> wait_for = {pollfd{child.pidfd(), POLLIN, 0},
                                      pollfd{wake_.get(), POLLIN, 0}};
    poll(wait_for.data(), wait_for.size(), PollTimeout(kill_at));
    if ((wait_for[0].revents & POLLIN) != 0) return;
    uint64_t count = 0;
    const ssize_t ignored = read(wake_.get(), &count, sizeof count);
    static_cast<void>(ignored);
    if (Clock::now() < kill_at) continue;
    impatience_ = absl::StrCat("killed, because it did not exit after ", patience_for_);
    child.Kill();
    kill_at = Clock::time_point::max();
  }
}

// What its threads do goes to its log; a trainer adds the stack of its main thread by itself.
void Supervisor::Diagnose(pid_t pid) {
  for (std::string& line : DescribeThreads(pid)) listener_.OnLine(std::move(line));
  kill(pid, SIGUSR1);
}

void Supervisor::Attend(const ChildProcess& child, ChildChannel& channel,
                        Clock::time_point& kill_at) {
  const auto within = [&](absl::Duration grace, absl::string_view of) {
    const Clock::time_point at =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(Chrono(grace));
    if (at >= kill_at) return;
    kill_at = at;
    patience_for_ = std::string(of);
  };
  bool stop = false;
  bool diagnose = false;
  {
    const MutexLock lock(mu_);
    diagnose = stopped_.has_value() && stopped_->diagnose;
    stop = stopped_.has_value() && !std::exchange(cancel_sent_, stopped_.has_value());
    if (patience_for_.empty() && (done_.has_value() || failed_.has_value())) {
      within(options_.exit_grace, "its result");
    } else if (patience_for_.empty() && reader_end_.has_value()) {
      const bool garbage = absl::IsDataLoss(*reader_end_);
      within(garbage ? kGarbageGrace : options_.exit_grace,
             garbage ? "a message that cannot be read" : "closing its channel");
    }
  }
  if (!stop) return DrainTo(channel);
  if (diagnose) Diagnose(child.pid());
  pb::ParentMessage cancel;
  cancel.mutable_cancel();
  within(options_.cancel_grace, "being cancelled");
  channel.Send(cancel).IgnoreError();
}

void Supervisor::DrainTo(ChildChannel& channel) {
  while (true) {
    pb::ParentMessage message;
    {
      const MutexLock lock(mu_);
      if (posted_.empty() || stopped_.has_value()) return;
      message = std::move(posted_.front());
      posted_.pop_front();
    }
    if (!channel.Send(message).ok()) return;
  }
}

void Supervisor::WaitForReader() {
  {
    MutexLock lock(mu_);
    const bool ended = changed_.wait_for(
        lock, Chrono(kDrainTimeout),
        [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return reader_end_.has_value(); });
    if (ended) return;
  }
  listener_.OnAbort();
}

ChildStory Supervisor::Tell(const ExitReport& exit, int64_t oom_kills_before) {
  ChildStory story;
  story.exit = exit;
  story.machine_memory_bytes = MachineMemoryBytes();
  story.oom_killer_ran = NumOomKills() > oom_kills_before;
  const MutexLock lock(mu_);
  story.done = std::move(done_);
  story.failed = std::move(failed_);
  story.stopped = stopped_;
  story.impatience = impatience_;
  story.last_line = last_line_;
  return story;
}

}  // namespace lathe::agent
