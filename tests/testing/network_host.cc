#include "tests/testing/network_host.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe::testing {
namespace {

absl::StatusOr<UniqueFd> NewSpace() {
  absl::StatusOr<UniqueFd> space = absl::UnknownError("not made");
  // A thread of its own: the caller stays where it is.
  std::jthread([&] {
    if (unshare(CLONE_NEWNET) != 0) {
      space = absl::FailedPreconditionError("network namespaces need root");
      return;
    }
    space = UniqueFd(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  }).join();
  return space;
}

}  // namespace

absl::StatusOr<NetworkHost> NetworkHost::Make() {
  LATHE_ASSIGN_OR_RETURN(UniqueFd space, NewSpace());
  NetworkHost host(std::move(space));
  LATHE_RETURN_IF_ERROR(host.Ip("link set lo up"));
  return host;
}

void NetworkHost::Run(const std::function<void()>& body) const {
  std::jthread([&] {
    ASSERT_EQ(setns(space_.get(), CLONE_NEWNET), 0) << errno;
    body();
  }).join();
}

NetworkHost::Traffic NetworkHost::Sent(const std::string& device) const {
  Traffic sent;
  Run([&] {
    std::ifstream table("/proc/thread-self/net/dev");
    for (std::string line; std::getline(table, line);) {
      const size_t colon = line.find(device + ":");
      if (colon == std::string::npos) continue;
      // Eight numbers of what came in, then those of what went out.
      std::istringstream numbers(line.substr(colon + device.size() + 1));
      for (int i = 0; i < 9; ++i) numbers >> sent.bytes;
      numbers >> sent.packets;
    }
  });
  return sent;
}

absl::Status NetworkHost::Ip(const std::string& arguments) const {
  int status = -1;
  const std::string command = absl::StrCat("ip ", arguments);
  Run([&] { status = std::system(command.c_str()); });
  if (status == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("'", command, "' ended with ", status, "; it needs iproute2 and veth"));
}

absl::Status NetworkHost::Connect(const NetworkHost& left, const NetworkHost& right) {
  const std::string peer = absl::StrCat("/proc/", getpid(), "/fd/", right.space_.get());
  LATHE_RETURN_IF_ERROR(
      left.Ip(absl::StrCat("link add ", kCable, " type veth peer name ", kCable, " netns ", peer)));
  for (const auto& [host, address] : {std::pair(&left, kLeft), std::pair(&right, kRight)}) {
    LATHE_RETURN_IF_ERROR(host->Ip(absl::StrCat("addr add ", address, "/24 dev ", kCable)));
    LATHE_RETURN_IF_ERROR(host->Ip(absl::StrCat("link set ", kCable, " up")));
  }
  return absl::OkStatus();
}

}  // namespace lathe::testing
