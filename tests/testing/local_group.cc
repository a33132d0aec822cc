#include "tests/testing/local_group.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe::testing {

// Where all ranks lay down what they have and read what the others have, round after round.
struct LocalGroup::Meeting {
  explicit Meeting(int num_ranks) : size(num_ranks), items(static_cast<size_t>(num_ranks)) {}

  struct Item {
    at::Tensor tensor = {};
    std::string bytes = {};
    std::shared_ptr<Meeting> meeting = {};  // Of a group that splits off.
  };

  absl::StatusOr<std::vector<Item>> Exchange(int rank, Item item) {
    MutexLock lock(mutex);
    changed.wait(lock, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !reading || lost > 0; });
    if (lost > 0) return absl::UnavailableError("a local rank left");
    items[static_cast<size_t>(rank)] = std::move(item);
    if (++num_here == size) {
      reading = true;
      changed.notify_all();
    }
    changed.wait(lock, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return reading || lost > 0; });
    if (!reading) return absl::UnavailableError("a local rank left");
    std::vector<Item> all = items;
    if (--num_here == 0) {
      reading = false;
      changed.notify_all();
    }
    return all;
  }

  void Leave() {
    const MutexLock lock(mutex);
    ++lost;
    changed.notify_all();
  }

  const int size;
  Mutex mutex;
  std::condition_variable_any changed;
  std::vector<Item> items ABSL_GUARDED_BY(mutex);
  int num_here ABSL_GUARDED_BY(mutex) = 0;
  bool reading ABSL_GUARDED_BY(mutex) = false;
  int lost ABSL_GUARDED_BY(mutex) = 0;
};

class LocalGroup::Rank final : public Communicator {
 public:
  Rank(int rank, std::shared_ptr<Meeting> meeting) : rank_(rank), meeting_(std::move(meeting)) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_->size; }

  absl::Status AllReduceSum(at::Tensor& tensor) override {
    LATHE_ASSIGN_OR_RETURN(const auto all, meeting_->Exchange(rank_, {.tensor = tensor.clone()}));
    at::Tensor sum = at::zeros_like(tensor);
    for (const auto& item : all) sum.add_(item.tensor);
    tensor.copy_(sum);
    return absl::OkStatus();
  }

  absl::Status Broadcast(at::Tensor& tensor, int root) override {
    LATHE_ASSIGN_OR_RETURN(const auto all, meeting_->Exchange(rank_, {.tensor = tensor.clone()}));
    tensor.copy_(all[static_cast<size_t>(root)].tensor);
    return absl::OkStatus();
  }

  absl::Status ReduceScatterSum(const at::Tensor& whole, at::Tensor& part) override {
    at::Tensor sum = whole.clone();
    LATHE_RETURN_IF_ERROR(AllReduceSum(sum));
    part.copy_(sum.view({size(), -1})[rank_].view_as(part));
    return absl::OkStatus();
  }

  absl::Status AllGatherInto(const at::Tensor& part, at::Tensor& whole) override {
    LATHE_ASSIGN_OR_RETURN(const auto all, meeting_->Exchange(rank_, {.tensor = part.clone()}));
    for (int i = 0; i < size(); ++i) {
      whole.view({size(), -1})[i].copy_(all[static_cast<size_t>(i)].tensor.view({-1}));
    }
    return absl::OkStatus();
  }

  absl::Status Barrier() override { return meeting_->Exchange(rank_, {}).status(); }

  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view bytes) override {
    LATHE_ASSIGN_OR_RETURN(const auto all,
                           meeting_->Exchange(rank_, {.bytes = std::string(bytes)}));
    std::vector<std::string> texts;
    for (const auto& item : all) texts.push_back(item.bytes);
    return texts;
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) override {
    LATHE_ASSIGN_OR_RETURN(const auto colors, AllGather(absl::StrCat(color)));
    const std::string own = absl::StrCat(color);
    const auto begin = colors.begin();
    const auto count = static_cast<int>(std::count(begin, colors.end(), own));
    const auto new_rank = static_cast<int>(std::count(begin, begin + rank_, own));
    const auto leader = static_cast<size_t>(std::find(begin, colors.end(), own) - begin);
    Meeting::Item offer;
    if (new_rank == 0) offer.meeting = std::make_shared<Meeting>(count);
    LATHE_ASSIGN_OR_RETURN(const auto all, meeting_->Exchange(rank_, std::move(offer)));
    return std::make_unique<Rank>(new_rank, all[leader].meeting);
  }

 private:
  const int rank_;
  const std::shared_ptr<Meeting> meeting_;
};

LocalGroup::LocalGroup(int size) : meeting_(std::make_shared<Meeting>(size)) {
  for (int i = 0; i < size; ++i) ranks_.push_back(std::make_unique<Rank>(i, meeting_));
}

LocalGroup::~LocalGroup() = default;

void LocalGroup::Run(const std::function<void(Communicator&)>& body) {
  std::vector<std::jthread> threads;
  for (auto& rank : ranks_) {
    threads.emplace_back([&] {
      body(*rank);
      meeting_->Leave();
    });
  }
}

}  // namespace lathe::testing
