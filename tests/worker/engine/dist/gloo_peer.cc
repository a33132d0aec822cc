// usage: gloo_peer RANK PORT FD: one of two ranks that reduce until the other one is gone.
#include <ATen/ATen.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "common/base/exit_codes.h"
#include "worker/engine/dist/communicator_gloo.h"

int main(int argc, char** argv) {
  if (argc != 4) return lathe::kExitBug;
  lathe::GlooOptions options;
  options.rank = std::atoi(argv[1]);
  options.size = 2;
  options.port = std::atoi(argv[2]);
  options.listen_fd = lathe::UniqueFd(std::atoi(argv[3]));
  auto group = lathe::JoinGlooGroup(std::move(options));
  absl::Status status = group.status();
  at::Tensor values = at::ones({100000}, at::kFloat);
  for (bool first = true; status.ok(); first = false) {
    status = (*group)->AllReduceSum(values);
    if (first && write(STDOUT_FILENO, ".", 1) != 1) return lathe::kExitBug;
  }
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return lathe::ExitCodeFor(status);
}
