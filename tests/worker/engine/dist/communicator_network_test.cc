// The Gloo communicator on network namespaces: what goes over the wire, and ranks on two hosts.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "tests/testing/network_host.h"
#include "worker/engine/dist/communicator_gloo.h"

namespace lathe {
namespace {

using testing::NetworkHost;

// Where a rank runs and the address it has there.
struct Place {
  const NetworkHost* host;
  std::string address;
};

// One rank per place, each in a thread of its host; rank 0 leads.
void RunRanks(const std::vector<Place>& places, const std::function<void(Communicator&)>& body) {
  absl::StatusOr<BoundSocket> bound;
  places[0].host->Run([&] { bound = BindSocket(places[0].address); });
  ASSERT_TRUE(bound.ok()) << bound.status();
  const auto run = [&](size_t rank) {
    GlooOptions options;
    options.rank = static_cast<int>(rank);
    options.size = static_cast<int>(places.size());
    options.host = places[0].address;
    options.own_host = places[rank].address;
    options.port = bound->port;
    options.rendezvous_timeout = absl::Seconds(60);
    if (rank == 0) options.listen_fd = std::move(bound->fd);
    auto group = JoinGlooGroup(std::move(options));
    ASSERT_TRUE(group.ok()) << group.status();
    body(**group);
  };
  std::vector<std::jthread> threads;
  for (size_t rank = 0; rank < places.size(); ++rank) {
    threads.emplace_back([&, rank] { places[rank].host->Run([&] { run(rank); }); });
  }
}

// The payload that leaves through `device` of `host` while all ranks do `collective` once: bytes
// less the headers of each packet, since a busy machine makes more and smaller packets and more
// acknowledgements of the same payload. The least of some rounds, because the kernel now and then
// sends a segment twice. The barriers around it are four bytes.
class Meter {
 public:
  Meter(const NetworkHost& host, std::string device) : host_(host), device_(std::move(device)) {}

  void Measure(Communicator& group, const std::function<absl::Status()>& collective) {
    for (int round = 0; round < 4; ++round) MeasureOnce(group, collective);
  }

  void ExpectSent(double payload) const {
    EXPECT_NEAR(static_cast<double>(sent_), payload, 0.01 * payload);
  }

 private:
  void MeasureOnce(Communicator& group, const std::function<absl::Status()>& collective) {
    EXPECT_TRUE(group.Barrier().ok());
    const int64_t before = group.rank() == 0 ? PayloadSent() : 0;
    EXPECT_TRUE(group.Barrier().ok());
    const absl::Status status = collective();
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(group.Barrier().ok());
    if (group.rank() == 0) sent_ = std::min(sent_, PayloadSent() - before);
  }

  int64_t PayloadSent() const {
    // Ethernet 14, IPv4 20, TCP 20 and its timestamps 12.
    constexpr int64_t kHeaderBytes = 66;
    const NetworkHost::Traffic sent = host_.Sent(device_);
    return sent.bytes - kHeaderBytes * sent.packets;
  }

  const NetworkHost& host_;
  const std::string device_;
  int64_t sent_ = std::numeric_limits<int64_t>::max();
};

constexpr int64_t kNumValues = 3 << 20;
constexpr double kVolume = 4.0 * kNumValues;

// N ranks on one loopback: it carries what all of them send.
class WireTest : public ::testing::TestWithParam<int> {
 protected:
  void Measure(const std::function<absl::Status(Communicator&)>& collective) {
    auto host = NetworkHost::Make();
    if (!host.ok()) GTEST_SKIP() << host.status().message();
    Meter meter(*host, "lo");
    const std::vector<Place> places(static_cast<size_t>(GetParam()), Place{&*host, "127.0.0.1"});
    RunRanks(places,
             [&](Communicator& group) { meter.Measure(group, [&] { return collective(group); }); });
    meter.ExpectSent(expected_);
  }

  const double peers_ = GetParam() - 1;
  double expected_ = 0;
};

TEST_P(WireTest, AllReduceSendsTwiceTheVolumeTimesNMinusOneOverNPerRank) {
  expected_ = 2 * peers_ * kVolume;
  Measure([](Communicator& group) {
    at::Tensor values = at::ones({kNumValues}, at::kFloat);
    return group.AllReduceSum(values);
  });
}

TEST_P(WireTest, ReduceScatterSendsHalfOfAnAllReduce) {
  expected_ = peers_ * kVolume;
  Measure([](Communicator& group) {
    const at::Tensor whole = at::ones({kNumValues}, at::kFloat);
    at::Tensor part = at::empty({kNumValues / group.size()}, at::kFloat);
    return group.ReduceScatterSum(whole, part);
  });
}

TEST_P(WireTest, AllGatherSendsHalfOfAnAllReduce) {
  expected_ = peers_ * kVolume;
  Measure([](Communicator& group) {
    const at::Tensor part = at::ones({kNumValues / group.size()}, at::kFloat);
    at::Tensor whole = at::empty({kNumValues}, at::kFloat);
    return group.AllGatherInto(part, whole);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, WireTest, ::testing::Values(2, 3, 4));

TEST(TwoHostsTest, RanksReduceAndSplitOverACableAndSendTheVolumeOnce) {
  const auto left = NetworkHost::Make();
  if (!left.ok()) GTEST_SKIP() << left.status().message();
  const auto right = NetworkHost::Make();
  ASSERT_TRUE(right.ok()) << right.status();
  const absl::Status connected = NetworkHost::Connect(*left, *right);
  if (!connected.ok()) GTEST_SKIP() << connected.message();
  Meter meter(*left, NetworkHost::kCable);
  RunRanks({{&*left, NetworkHost::kLeft}, {&*right, NetworkHost::kRight}},
           [&](Communicator& group) {
             at::Tensor values;
             meter.Measure(group, [&] {
               values = at::full({kNumValues}, group.rank() + 1.0, at::kFloat);
               return group.AllReduceSum(values);
             });
             EXPECT_EQ(values[kNumValues - 1].item<double>(), 3.0);
             auto split = group.Split(7);
             ASSERT_TRUE(split.ok()) << split.status();
             EXPECT_TRUE((*split)->AllReduceSum(values).ok());
             EXPECT_EQ(values[0].item<double>(), 6.0);
           });
  // Of one rank of two: 2 (N - 1) / N = 1.
  meter.ExpectSent(kVolume);
}

}  // namespace
}  // namespace lathe
