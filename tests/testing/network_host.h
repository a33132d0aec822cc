#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/file.h"

namespace lathe::testing {

// A network namespace of the kernel: a host of its own for the threads, sockets and processes that
// are started in it. It has its own loopback, which is up. Thread-compatible.
class NetworkHost {
 public:
  // FailedPrecondition says what the machine lacks (root, the ip program): a reason to skip.
  static absl::StatusOr<NetworkHost> Make();

  // Calls `body` in a new thread of this host and waits for it. What that thread starts belongs to
  // the host.
  void Run(const std::function<void()>& body) const;

  // What has left through the device so far. A packet is what the kernel hands over at once, of
  // several segments or one; `bytes` counts its headers once. -1, -1 if there is no such device.
  struct Traffic {
    int64_t bytes = -1;
    int64_t packets = -1;
  };
  Traffic Sent(const std::string& device) const;

  // A cable: device `kCable` on both, with addresses kLeft and kRight.
  static absl::Status Connect(const NetworkHost& left, const NetworkHost& right);
  static constexpr char kCable[] = "cable0";
  static constexpr char kLeft[] = "10.99.0.1";
  static constexpr char kRight[] = "10.99.0.2";

 private:
  explicit NetworkHost(UniqueFd space) : space_(std::move(space)) {}
  // Runs `ip ARGUMENTS` on this host.
  absl::Status Ip(const std::string& arguments) const;

  UniqueFd space_;
};

}  // namespace lathe::testing
