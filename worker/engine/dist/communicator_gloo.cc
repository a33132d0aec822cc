#include "worker/engine/dist/communicator_gloo.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "worker/engine/dist/revocable_store.h"

namespace lathe {
namespace {

absl::Status PeerLost(absl::string_view what, const std::exception& error) {
  const absl::string_view text(error.what());
  return absl::UnavailableError(absl::StrCat(what, ": ", text.substr(0, text.find('\n'))));
}

// What throws in wait() is the network; what throws before it is a bug of the caller.
absl::Status Wait(absl::string_view what, c10d::Work& work) {
  try {
    work.wait();
  } catch (const std::exception& error) {
    return PeerLost(what, error);
  }
  return absl::OkStatus();
}

class PendingGloo final : public PendingCollective {
 public:
  PendingGloo(absl::string_view what, c10::intrusive_ptr<c10d::Work> work)
      : what_(what), work_(std::move(work)) {}
  absl::Status Wait() override { return lathe::Wait(what_, *work_); }

 private:
  const absl::string_view what_;  // A literal.
  const c10::intrusive_ptr<c10d::Work> work_;
};

// What a group that splits off needs to know of the group it comes from.
struct Origin {
  std::string own_host;
  int64_t attempt = 1;
  absl::Duration rendezvous_timeout;
  absl::Duration collective_timeout;
};

class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(c10::intrusive_ptr<c10d::ProcessGroupGloo> group, Origin origin)
      : group_(std::move(group)), origin_(std::move(origin)) {}

  int rank() const override { return group_->getRank(); }
  int size() const override { return group_->getSize(); }

  absl::Status AllReduceSum(at::Tensor& tensor) override {
    return StartAllReduceSum(tensor)->Wait();
  }

  std::unique_ptr<PendingCollective> StartAllReduceSum(at::Tensor& tensor) override {
    std::vector<at::Tensor> tensors = {tensor};
    return std::make_unique<PendingGloo>("all-reduce", group_->allreduce(tensors));
  }

  absl::Status Broadcast(at::Tensor& tensor, int root) override {
    std::vector<at::Tensor> tensors = {tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return Wait("broadcast", *group_->broadcast(tensors, options));
  }

  absl::Status ReduceScatterSum(const at::Tensor& whole, at::Tensor& part) override;

  absl::Status AllGatherInto(const at::Tensor& part, at::Tensor& whole) override {
    at::Tensor own = part;
    return Wait("all-gather", *group_->_allgather_base(whole, own));
  }

  // A sum of nothing: gloo's own barrier would do, but this is the path that every step tests.
  absl::Status Barrier() override {
    at::Tensor nothing = at::zeros({1}, at::kFloat);
    return AllReduceSum(nothing);
  }

  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view bytes) override;
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) override;

 private:
  absl::StatusOr<std::vector<at::Tensor>> GatherEqual(const at::Tensor& own) {
    std::vector<at::Tensor> inputs = {own};
    std::vector<std::vector<at::Tensor>> outputs(1);
    for (int i = 0; i < size(); ++i) outputs[0].push_back(at::empty_like(own));
    LATHE_RETURN_IF_ERROR(Wait("all-gather", *group_->allgather(outputs, inputs)));
    return std::move(outputs[0]);
  }

  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  const Origin origin_;
};

// Not gloo's reduce-scatter: in this version that is an all-reduce of everything, twice the bytes.
// Each rank gets its piece of every other's and adds them in the order of the ranks.
absl::Status GlooCommunicator::ReduceScatterSum(const at::Tensor& whole, at::Tensor& part) {
  at::Tensor sent = whole.view({size(), -1});
  at::Tensor pieces = at::empty_like(sent);
  std::vector<int64_t> equal;
  LATHE_RETURN_IF_ERROR(Wait("reduce-scatter", *group_->alltoall_base(pieces, sent, equal, equal)));
  at::Tensor sum = part.view({-1});
  sum.copy_(pieces[0]);
  for (int64_t i = 1; i < size(); ++i) sum.add_(pieces[i]);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> GlooCommunicator::AllGather(absl::string_view bytes) {
  const at::Tensor length = at::full({1}, static_cast<int64_t>(bytes.size()), at::kLong);
  LATHE_ASSIGN_OR_RETURN(const std::vector<at::Tensor> lengths, GatherEqual(length));
  int64_t longest = 1;
  for (const at::Tensor& other : lengths) longest = std::max(longest, other.item<int64_t>());
  at::Tensor padded = at::zeros({longest}, at::kByte);
  std::copy(bytes.begin(), bytes.end(), static_cast<char*>(padded.data_ptr()));
  LATHE_ASSIGN_OR_RETURN(const std::vector<at::Tensor> all, GatherEqual(padded));
  std::vector<std::string> texts;
  for (size_t i = 0; i < all.size(); ++i) {
    texts.emplace_back(static_cast<const char*>(all[i].const_data_ptr()),
                       static_cast<size_t>(lengths[i].item<int64_t>()));
  }
  return texts;
}

// What each rank says before a split: its color, and where it would listen if it led.
struct Offer {
  int color = 0;
  std::string host;
  int port = 0;
};

absl::StatusOr<Offer> ParseOffer(const std::string& text) {
  const std::vector<std::string> fields = absl::StrSplit(text, ' ');
  Offer offer;
  if (fields.size() == 3 && absl::SimpleAtoi(fields[0], &offer.color) &&
      absl::SimpleAtoi(fields[2], &offer.port)) {
    offer.host = fields[1];
    return offer;
  }
  return absl::InternalError(
      absl::StrCat("split: a rank sent '", absl::CHexEscape(text), "'; must be COLOR HOST PORT"));
}

// The rendezvous of the first group is long closed: the lowest rank of each color leads a new one.
absl::StatusOr<std::unique_ptr<Communicator>> GlooCommunicator::Split(int color) {
  LATHE_ASSIGN_OR_RETURN(BoundSocket bound, BindSocket(origin_.own_host));
  LATHE_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                         AllGather(absl::StrCat(color, " ", origin_.own_host, " ", bound.port)));
  GlooOptions options;
  options.size = 0;
  options.own_host = origin_.own_host;
  options.attempt = origin_.attempt;
  options.rendezvous_timeout = origin_.rendezvous_timeout;
  options.collective_timeout = origin_.collective_timeout;
  for (int i = 0; i < size(); ++i) {
    LATHE_ASSIGN_OR_RETURN(Offer offer, ParseOffer(texts[static_cast<size_t>(i)]));
    if (offer.color != color) continue;
    if (options.size == 0) {
      options.host = std::move(offer.host);
      options.port = offer.port;
    }
    if (i == rank()) options.rank = options.size;
    ++options.size;
  }
  if (options.size == 1) return MakeSoloCommunicator();
  if (options.rank == 0) options.listen_fd = std::move(bound.fd);
  return JoinGlooGroup(std::move(options));
}

c10::intrusive_ptr<RevocableStore> OpenStore(GlooOptions& options) {
  c10d::TCPStoreOptions store;
  store.port = static_cast<uint16_t>(options.port);
  store.isServer = options.rank == 0;
  store.numWorkers = static_cast<size_t>(options.size);
  // Gloo's own full mesh waits for everybody.
  store.waitWorkers = false;
  store.timeout = absl::ToChronoMilliseconds(options.rendezvous_timeout);
  if (store.isServer) store.masterListenFd = options.listen_fd.Release();
  auto tcp = c10::make_intrusive<c10d::TCPStore>(options.host, store);
  return c10::make_intrusive<RevocableStore>(c10::make_intrusive<c10d::PrefixStore>(
      absl::StrCat("attempt-", options.attempt), std::move(tcp)));
}

absl::StatusOr<std::unique_ptr<Communicator>> Join(GlooOptions& options) {
  const auto store = OpenStore(options);
  // The set-up of the mesh runs under the group's time-out, the collectives under a longer one.
  auto gloo = c10d::ProcessGroupGloo::Options::create(
      absl::ToChronoMilliseconds(options.rendezvous_timeout));
  gloo->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(options.own_host));
  gloo->threads = 1;
  auto group = c10::make_intrusive<c10d::ProcessGroupGloo>(store, options.rank, options.size, gloo);
  auto communicator = std::make_unique<GlooCommunicator>(
      group, Origin{.own_host = options.own_host,
                    .attempt = options.attempt,
                    .rendezvous_timeout = options.rendezvous_timeout,
                    .collective_timeout = options.collective_timeout});
  // After this nobody reads the store any more.
  LATHE_RETURN_IF_ERROR(communicator->Barrier());
  store->Revoke();
  group->setTimeout(absl::ToChronoMilliseconds(options.collective_timeout));
  return communicator;
}

}  // namespace

absl::Status GlooOptions::Validate() const {
  if (size < 1 || rank < 0 || rank >= size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rendezvous: rank is ", rank, "; must be in [0, ", size, ")"));
  }
  if (port < 1 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("rendezvous: port is ", port, "; must be in [1, 65535]"));
  }
  if (rank == 0 && !listen_fd.valid()) {
    return absl::InvalidArgumentError("rendezvous: rank 0 got no bound socket");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Communicator>> JoinGlooGroup(GlooOptions options) {
  LATHE_RETURN_IF_ERROR(options.Validate());
  if (options.own_host.empty()) options.own_host = options.host;
  try {
    return Join(options);
  } catch (const std::exception& error) {
    return PeerLost(absl::StrCat("rendezvous at ", options.host, ":", options.port), error);
  }
}

}  // namespace lathe
