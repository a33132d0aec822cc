#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "worker/engine/dist/communicator.h"

namespace lathe::testing {

// Ranks as threads of one process, without sockets: the fake of Communicator.
class LocalGroup {
 public:
  explicit LocalGroup(int size);
  ~LocalGroup();
  Communicator& rank(int index) { return *ranks_[static_cast<size_t>(index)]; }

  // Calls `body` once per rank, each in a thread of its own, and waits for all of them. A rank that
  // returns early counts as lost: the others get Unavailable.
  void Run(const std::function<void(Communicator&)>& body);

 private:
  struct Meeting;
  class Rank;
  std::shared_ptr<Meeting> meeting_;
  std::vector<std::unique_ptr<Communicator>> ranks_;
};

}  // namespace lathe::testing
