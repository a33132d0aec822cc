#pragma once

#include <string>
#include <utility>

namespace lathe::simulation {

// The first promise that was broken in a history; what follows from it says nothing more.
class Verdict {
 public:
  void Break(std::string why) {
    if (why_.empty()) why_ = std::move(why);
  }
  bool broken() const { return !why_.empty(); }
  const std::string& why() const { return why_; }

 private:
  std::string why_;
};

}  // namespace lathe::simulation
