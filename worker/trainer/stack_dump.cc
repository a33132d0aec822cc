#include "worker/trainer/stack_dump.h"

#include <execinfo.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/debugging/symbolize.h"

namespace lathe {
namespace {

constexpr int kMaxFrames = 48;

void Print(const char* text) {
  const ssize_t ignored = write(STDERR_FILENO, text, std::strlen(text));
  static_cast<void>(ignored);
}

// Async-signal-safe calls only: no allocation, no lock, no stdio.
void PrintStack(int /*signal*/) {
  const int before = errno;
  std::array<void*, kMaxFrames> frames{};
  const int count = backtrace(frames.data(), kMaxFrames);
  for (int i = 1; i < count; ++i) {
    std::array<char, 256> name{};
    if (!absl::Symbolize(frames[static_cast<size_t>(i)], name.data(), name.size())) {
      std::strncpy(name.data(), "?", name.size() - 1);
    }
    Print("stack: ");
    Print(name.data());
    Print("\n");
  }
  errno = before;
}

}  // namespace

void PrintStackOnSignal(const char* program) {
  absl::InitializeSymbolizer(program);
  // The first call loads the unwinder, which allocates.
  std::array<void*, 1> ignored{};
  backtrace(ignored.data(), 1);
  struct sigaction action {};
  action.sa_handler = PrintStack;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
}

}  // namespace lathe
