#include "worker/engine/dist/communicator_gloo.h"

#include <ATen/ATen.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <functional>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"
#include "tests/testing/listening.h"
#include "tests/testing/local_group.h"

namespace lathe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Before the first group: c10d's flight recorder adds every new group to one map of the process,
// and takes no lock. Groups of one process are made by one thread, except here, where ranks are
// threads.
const int kNoFlightRecorder = setenv("TORCH_FR_BUFFER_SIZE", "0", /*overwrite=*/1);

GlooOptions Options(int rank, int size, int port, UniqueFd listen_fd = {}) {
  GlooOptions options;
  options.rank = rank;
  options.size = size;
  options.port = port;
  options.listen_fd = std::move(listen_fd);
  return options;
}

// The ranks as threads of this process, over real sockets.
void RunGloo(int size, const std::function<void(Communicator&)>& body) {
  absl::StatusOr<BoundSocket> bound = BindLoopback();
  ASSERT_TRUE(bound.ok()) << bound.status();
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size; ++rank) {
    GlooOptions options =
        Options(rank, size, bound->port, rank == 0 ? std::move(bound->fd) : UniqueFd());
    threads.emplace_back([&body, options = std::move(options)]() mutable {
      auto communicator = JoinGlooGroup(std::move(options));
      ASSERT_TRUE(communicator.ok()) << communicator.status();
      body(**communicator);
    });
  }
}

void ExpectCollectivesWork(Communicator& group) {
  at::Tensor sum = at::full({5}, group.rank() + 1.0, at::kDouble);
  ASSERT_TRUE(group.AllReduceSum(sum).ok());
  EXPECT_EQ(sum[4].item<double>(), group.size() * (group.size() + 1) / 2.0);
  at::Tensor value = at::full({2}, group.rank() + 7.0, at::kFloat);
  ASSERT_TRUE(group.Broadcast(value, 1).ok());
  EXPECT_EQ(value[0].item<double>(), 8.0);
  const auto texts = group.AllGather(std::string(static_cast<size_t>(group.rank()) * 3, 'x'));
  ASSERT_TRUE(texts.ok()) << texts.status();
  ASSERT_EQ(texts->size(), static_cast<size_t>(group.size()));
  EXPECT_EQ((*texts)[0], "");
  EXPECT_EQ((*texts)[1], "xxx");
  EXPECT_TRUE(group.Barrier().ok());
}

void ExpectSeveralSumsOnTheirWay(Communicator& group) {
  std::vector<at::Tensor> tensors;
  std::vector<std::unique_ptr<PendingCollective>> pending;
  for (int i = 0; i < 4; ++i) {
    tensors.push_back(at::full({1000}, i + group.rank(), at::kFloat));
    pending.push_back(group.StartAllReduceSum(tensors.back()));
  }
  for (size_t i = 0; i < pending.size(); ++i) {
    ASSERT_TRUE(pending[i]->Wait().ok());
    EXPECT_EQ(tensors[i][999].item<double>(), 3.0 * static_cast<double>(i) + 3);
  }
}

TEST(GlooCommunicatorTest, SeveralSumsMayBeOnTheirWay) { RunGloo(3, ExpectSeveralSumsOnTheirWay); }
TEST(LocalGroupTest, SeveralSumsMayBeOnTheirWay) {
  testing::LocalGroup(3).Run(ExpectSeveralSumsOnTheirWay);
}

// Exact sums of gradients: every bit of 64 counts, and what wraps on the way comes back.
void ExpectWholeNumbersAreSummedToTheLastBit(Communicator& group) {
  constexpr int64_t kLarge = (int64_t{1} << 62) + 1;
  at::Tensor sums = at::full({1000}, group.rank() == 2 ? -kLarge : kLarge, at::kLong);
  ASSERT_TRUE(group.AllReduceSum(sums).ok());
  EXPECT_TRUE(at::equal(sums, at::full({1000}, kLarge, at::kLong))) << sums[0];
}

TEST(GlooCommunicatorTest, WholeNumbersAreSummedToTheLastBit) {
  RunGloo(3, ExpectWholeNumbersAreSummedToTheLastBit);
}
TEST(LocalGroupTest, WholeNumbersAreSummedToTheLastBit) {
  testing::LocalGroup(3).Run(ExpectWholeNumbersAreSummedToTheLastBit);
}

// Rank r has r, r + 1, ... in `whole`.
void ExpectPiecesAreSummedAndGathered(Communicator& group) {
  const int size = group.size();
  const at::Tensor whole = at::arange(2 * size, at::kFloat).add_(group.rank());
  at::Tensor part = at::empty({2}, at::kFloat);
  ASSERT_TRUE(group.ReduceScatterSum(whole, part).ok());
  EXPECT_EQ(whole[0].item<double>(), group.rank()) << "the input was changed";
  const int first = 2 * group.rank();
  const double ranks = size * (size - 1) / 2.0;
  EXPECT_EQ(part[0].item<double>(), size * first + ranks);
  EXPECT_EQ(part[1].item<double>(), size * (first + 1) + ranks);
  at::Tensor sums = at::empty({2 * size}, at::kFloat);
  ASSERT_TRUE(group.AllGatherInto(part, sums).ok());
  EXPECT_TRUE(at::equal(sums, at::arange(2 * size, at::kFloat).mul_(size).add_(ranks))) << sums;
}

TEST(GlooCommunicatorTest, PiecesAreSummedAndGathered) {
  RunGloo(3, ExpectPiecesAreSummedAndGathered);
}
TEST(LocalGroupTest, PiecesAreSummedAndGathered) {
  testing::LocalGroup(3).Run(ExpectPiecesAreSummedAndGathered);
}
TEST(SoloCommunicatorTest, PiecesAreSummedAndGathered) {
  ExpectPiecesAreSummedAndGathered(*MakeSoloCommunicator());
}

// Ranks 0 and 2 become one group, rank 1 stays alone.
void ExpectSplits(Communicator& group) {
  auto split = group.Split(group.rank() % 2);
  ASSERT_TRUE(split.ok()) << split.status();
  const bool even = group.rank() % 2 == 0;
  EXPECT_EQ((*split)->size(), even ? 2 : 1);
  EXPECT_EQ((*split)->rank(), group.rank() / 2);
  EXPECT_THAT(testing::ListeningOffLoopback(getpid()), IsEmpty());
  at::Tensor sum = at::full({1}, group.rank() + 1.0, at::kDouble);
  ASSERT_TRUE((*split)->AllReduceSum(sum).ok());
  EXPECT_EQ(sum.item<double>(), even ? 4.0 : 2.0);
  EXPECT_TRUE(group.Barrier().ok()) << "the whole group still works";
}

TEST(GlooCommunicatorTest, RanksOfOneColorBecomeAGroup) { RunGloo(3, ExpectSplits); }
TEST(LocalGroupTest, RanksOfOneColorBecomeAGroup) { testing::LocalGroup(3).Run(ExpectSplits); }

TEST(GlooCommunicatorTest, CollectivesWork) { RunGloo(3, ExpectCollectivesWork); }

TEST(LocalGroupTest, CollectivesWorkAsOverSockets) {
  testing::LocalGroup(3).Run(ExpectCollectivesWork);
}

TEST(GlooCommunicatorTest, AllRanksGetTheSameBits) {
  std::vector<at::Tensor> results(3);
  RunGloo(3, [&](Communicator& group) {
    at::Tensor values =
        at::arange(1, 1001, at::kFloat).mul_(0.1F + static_cast<float>(group.rank()));
    values.reciprocal_();
    ASSERT_TRUE(group.AllReduceSum(values).ok());
    results[static_cast<size_t>(group.rank())] = values;
  });
  EXPECT_TRUE(at::equal(results[0], results[1]));
  EXPECT_TRUE(at::equal(results[0], results[2]));
}

bool Listens(int port) {
  const auto sockets = testing::ListeningSockets(getpid());
  return std::any_of(sockets.begin(), sockets.end(),
                     [&](const auto& socket) { return socket.port == port; });
}

TEST(GlooCommunicatorTest, NeverListensOffLoopbackAndClosesTheStoreOnceTheGroupIsFormed) {
  absl::StatusOr<BoundSocket> bound = BindLoopback();
  ASSERT_TRUE(bound.ok());
  const int port = bound->port;
  std::unique_ptr<Communicator> first;
  std::jthread rank_0([&, fd = std::move(bound->fd)]() mutable {
    auto joined = JoinGlooGroup(Options(0, 2, port, std::move(fd)));
    ASSERT_TRUE(joined.ok()) << joined.status();
    first = *std::move(joined);
  });
  // Rank 0 cannot go on before rank 1 comes: this is the set-up phase.
  while (!Listens(port)) std::this_thread::yield();
  EXPECT_THAT(testing::ListeningOffLoopback(getpid()), IsEmpty());
  auto second = JoinGlooGroup(Options(1, 2, port));
  ASSERT_TRUE(second.ok()) << second.status();
  rank_0.join();
  EXPECT_FALSE(Listens(port));
  EXPECT_THAT(testing::ListeningOffLoopback(getpid()), IsEmpty());
  std::jthread other([&] { ExpectCollectivesWork(*first); });
  ExpectCollectivesWork(**second);
}

TEST(ListeningTest, FindsASocketOffLoopback) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(listen(fd.get(), 1), 0);  // Unbound: the kernel takes 0.0.0.0 and a free port.
  EXPECT_EQ(testing::ListeningOffLoopback(getpid()).size(), 1U);
}

TEST(GlooCommunicatorTest, RanksOfDifferentAttemptsDoNotMeet) {
  absl::StatusOr<BoundSocket> bound = BindLoopback();
  ASSERT_TRUE(bound.ok());
  const int port = bound->port;
  std::jthread rank_0([&] {
    GlooOptions options = Options(0, 2, port, std::move(bound->fd));
    options.attempt = 2;
    options.rendezvous_timeout = absl::Seconds(2);
    EXPECT_EQ(JoinGlooGroup(std::move(options)).status().code(), absl::StatusCode::kUnavailable);
  });
  GlooOptions old = Options(1, 2, port);
  old.rendezvous_timeout = absl::Seconds(2);
  EXPECT_EQ(JoinGlooGroup(std::move(old)).status().code(), absl::StatusCode::kUnavailable);
}

TEST(BindSocketTest, NamesWhatIsWrong) {
  EXPECT_EQ(BindSocket("localhost").status().message(),
            "rendezvous: host is 'localhost'; must be an IPv4 address, as 127.0.0.1");
  // TEST-NET-1 of RFC 5737: no machine has it.
  EXPECT_TRUE(absl::StrContains(BindSocket("192.0.2.1").status().message(), "bind 192.0.2.1"));
}

TEST(GlooOptionsTest, NamesWhatIsWrong) {
  EXPECT_EQ(Options(2, 2, 1).Validate().message(), "rendezvous: rank is 2; must be in [0, 2)");
  EXPECT_EQ(Options(1, 2, 0).Validate().message(), "rendezvous: port is 0; must be in [1, 65535]");
  EXPECT_EQ(Options(0, 2, 1).Validate().message(), "rendezvous: rank 0 got no bound socket");
}

// Starts gloo_peer, a program that reduces until it fails; its output goes to `output`.
pid_t SpawnPeer(int rank, const BoundSocket& bound, int output) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  if (rank == 0) fcntl(bound.fd.get(), F_SETFD, 0);
  dup2(output, STDOUT_FILENO);
  const std::string program =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "worker_engine_gloo_peer";
  execl(program.c_str(), program.c_str(), absl::StrCat(rank).c_str(),
        absl::StrCat(bound.port).c_str(), absl::StrCat(rank == 0 ? bound.fd.get() : -1).c_str(),
        nullptr);
  _exit(127);
}

int WaitFor(pid_t pid) {
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

TEST(GlooProcessTest, SurvivorOfAKilledPeerExitsWith75WithinSeconds) {
  for (const int victim : {0, 1}) {
    absl::StatusOr<BoundSocket> bound = BindLoopback();
    ASSERT_TRUE(bound.ok());
    int pipe_fds[2];
    ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
    const UniqueFd output(pipe_fds[0]);
    pid_t pids[2] = {SpawnPeer(0, *bound, pipe_fds[1]), SpawnPeer(1, *bound, pipe_fds[1])};
    close(pipe_fds[1]);
    // Each writes one byte after its first all-reduce.
    char ready[2];
    ASSERT_EQ(read(output.get(), &ready[0], 1), 1);
    ASSERT_EQ(read(output.get(), &ready[1], 1), 1);
    for (const pid_t pid : pids) {
      EXPECT_THAT(testing::ListeningOffLoopback(pid), IsEmpty());
    }
    ASSERT_EQ(kill(pids[victim], SIGKILL), 0);
    const absl::Time killed = absl::Now();
    const int survivor = WaitFor(pids[1 - victim]);
    EXPECT_TRUE(WIFEXITED(survivor)) << DescribeExit(survivor);
    EXPECT_EQ(WEXITSTATUS(survivor), kExitPeerLost);
    EXPECT_LT(absl::Now() - killed, absl::Seconds(5));
    EXPECT_EQ(CauseOfExit(WaitFor(pids[victim])), FailureCause::kMachine);
  }
}

}  // namespace
}  // namespace lathe
