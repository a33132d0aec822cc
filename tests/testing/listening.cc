#include "tests/testing/listening.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace lathe::testing {
namespace {

std::set<std::string> SocketInodes(pid_t pid) {
  std::set<std::string> inodes;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), error)) {
    const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    if (absl::StartsWith(target, "socket:[")) inodes.insert(target.substr(8, target.size() - 9));
  }
  return inodes;
}

bool IsLoopback(const std::string& address) {
  if (address.size() == 8) return absl::EndsWith(address, "7F");  // Little endian: 127 is last.
  return address == "00000000000000000000000001000000" ||
         (absl::StartsWith(address, "0000000000000000FFFF0000") && absl::EndsWith(address, "7F"));
}

void ReadTable(const std::string& path, const std::set<std::string>& inodes,
               std::vector<ListeningSocket>& found) {
  constexpr const char* kListen = "0A";
  std::ifstream table(path);
  std::string line;
  std::getline(table, line);
  while (std::getline(table, line)) {
    // sl local remote state queues timer retransmits uid timeout inode
    std::istringstream words(line);
    std::string sl, local, remote, state, queues, timer, retransmits, uid, timeout, inode;
    words >> sl >> local >> remote >> state >> queues >> timer >> retransmits >> uid >> timeout >>
        inode;
    if (state != kListen || !inodes.contains(inode)) continue;
    const size_t colon = local.find(':');
    const std::string address = local.substr(0, colon);
    found.push_back({.address = address,
                     .port = std::stoi(local.substr(colon + 1), nullptr, 16),
                     .loopback = IsLoopback(address)});
  }
}

}  // namespace

std::vector<ListeningSocket> ListeningSockets(pid_t pid) {
  std::vector<ListeningSocket> found;
  const std::set<std::string> inodes = SocketInodes(pid);
  ReadTable("/proc/net/tcp", inodes, found);
  ReadTable("/proc/net/tcp6", inodes, found);
  return found;
}

std::vector<std::string> ListeningOffLoopback(pid_t pid) {
  std::vector<std::string> off;
  for (const ListeningSocket& socket : ListeningSockets(pid)) {
    if (!socket.loopback) off.push_back(absl::StrCat(socket.address, ":", socket.port));
  }
  return off;
}

}  // namespace lathe::testing
