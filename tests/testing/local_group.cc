#include "tests/testing/local_group.h"

#include <ATen/ATen.h>

#include <thread>

#include "common/base/status.h"

namespace lathe::testing {

// Where all ranks lay down what they have and read what the others have, round after round.
struct LocalGroup::Meeting {
  explicit Meeting(int num_ranks) : size(num_ranks), items(static_cast<size_t>(num_ranks)) {}

  struct Item {
    at::Tensor tensor;
    std::string bytes;
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
  Rank(int rank, Meeting& meeting) : rank_(rank), meeting_(meeting) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_.size; }

  absl::Status AllReduceSum(at::Tensor& tensor) override {
    LATHE_ASSIGN_OR_RETURN(const auto all, meeting_.Exchange(rank_, {tensor.clone(), ""}));
    at::Tensor sum = at::zeros_like(tensor);
    for (const auto& item : all) sum.add_(item.tensor);
    tensor.copy_(sum);
    return absl::OkStatus();
  }

  absl::Status Broadcast(at::Tensor& tensor, int root) override {
    LATHE_ASSIGN_OR_RETURN(const auto all, meeting_.Exchange(rank_, {tensor.clone(), ""}));
    tensor.copy_(all[static_cast<size_t>(root)].tensor);
    return absl::OkStatus();
  }

  absl::Status Barrier() override { return meeting_.Exchange(rank_, {}).status(); }

  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view bytes) override {
    LATHE_ASSIGN_OR_RETURN(const auto all, meeting_.Exchange(rank_, {{}, std::string(bytes)}));
    std::vector<std::string> texts;
    for (const auto& item : all) texts.push_back(item.bytes);
    return texts;
  }

 private:
  const int rank_;
  Meeting& meeting_;
};

LocalGroup::LocalGroup(int size) : meeting_(std::make_unique<Meeting>(size)) {
  for (int i = 0; i < size; ++i) ranks_.push_back(std::make_unique<Rank>(i, *meeting_));
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
