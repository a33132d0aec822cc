#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/fault/fault.h"
#include "common/fault/plan.h"

// For the programs in bin/chaos and for tests: linked as an object, it takes the place of
// fault_off.cc.

namespace lathe::fault {
namespace {

struct Armed {
  Plan plan;
  std::string text;
  std::string folder;
  std::atomic<int> hits = 0;
};

std::string ReadEnvironment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Null: nothing is planned. Ends the process if the plan cannot be read: a fault that never fires
// would look like a promise kept.
Armed* Load() {
  const std::string text = ReadEnvironment("LATHE_FAULT");
  if (text.empty()) return nullptr;
  const absl::StatusOr<Plan> plan = ParsePlan(text);
  if (!plan.ok()) {
    std::fprintf(stderr, "%s\n", std::string(plan.status().message()).c_str());
    _exit(2);
  }
  auto* armed = new Armed;
  armed->plan = *plan;
  armed->text = text;
  armed->folder = ReadEnvironment("LATHE_FAULT_DIR");
  return armed;
}

Armed* Get() {
  static Armed* const armed = Load();
  return armed;
}

// Whether this process is the one that fires. The file tells who did.
bool Claim(const Armed& armed) {
  const std::string path = absl::StrCat(armed.folder, "/fired");
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  dprintf(fd, "%d %s\n", getpid(), armed.text.c_str());
  close(fd);
  return true;
}

absl::Status ErrorOf(const Plan& plan) {
  absl::Status status(plan.code, absl::StrCat("fault at ", plan.point));
  // As common/base/exit_codes.h marks it, which lies above this.
  if (absl::IsResourceExhausted(status)) status.SetPayload("lathe/disk-full", absl::Cord());
  return status;
}

absl::Status Fire(const Plan& plan) {
  switch (plan.action) {
    case Action::kKill:
      kill(getpid(), SIGKILL);
      break;
    case Action::kStop:
      kill(getpid(), SIGSTOP);
      break;
    case Action::kDelay:
      absl::SleepFor(absl::Milliseconds(plan.delay_ms));
      break;
    case Action::kError:
      return ErrorOf(plan);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Hit(absl::string_view point) {
  Armed* const armed = Get();
  if (armed == nullptr || point != armed->plan.point) return absl::OkStatus();
  // Passes before it is armed do not count.
  if (access(absl::StrCat(armed->folder, "/armed").c_str(), F_OK) != 0) return absl::OkStatus();
  if (++armed->hits != armed->plan.hit || !Claim(*armed)) return absl::OkStatus();
  return Fire(armed->plan);
}

std::vector<std::string> Environment() {
  const Armed* const armed = Get();
  if (armed == nullptr) return {};
  return {absl::StrCat("LATHE_FAULT=", armed->text),
          absl::StrCat("LATHE_FAULT_DIR=", armed->folder)};
}

}  // namespace lathe::fault
