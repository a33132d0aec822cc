// Stands for lathe-trainer and lathe-prepare in tests of the agent: speaks the wire protocol and
// does what a script says, line by line. The script is the data file of a check, preview or
// prepare, the file "script" among the shards of a training or in the model folder of a serve.

#include <dirent.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "common/wire/child_channel.h"
#include "lathe/internal/v1/child.pb.h"

extern char** environ;

namespace lathe {
namespace {

namespace pb = ::lathe::internal::v1;

struct Child {
  ChildChannel channel{UniqueFd(kChildChannelFd)};
  pb::Task task;
  std::string output_dir;

  void Send(const pb::ChildMessage& message) { channel.Send(message).IgnoreError(); }
  void Fail(int code, const std::string& text) {
    pb::ChildMessage message;
    message.mutable_failed()->set_code(code);
    message.mutable_failed()->set_message(text);
    Send(message);
  }
  pb::ParentMessage Receive() {
    pb::ParentMessage message;
    if (!channel.Receive(message).ok()) _exit(75);
    return message;
  }
};

std::string ScriptPath(Child& child) {
  const pb::Task& task = child.task;
  if (task.has_train()) {
    child.output_dir = task.train().output_dir();
    return task.train().shard_dir() + "/script";
  }
  if (task.has_prepare()) {
    child.output_dir = task.prepare().output_dir();
    return task.prepare().data_path();
  }
  if (task.has_check()) return task.check().data_path();
  if (task.has_preview()) return task.preview().data_path();
  return task.serve().model_dir() + "/script";
}

void PrintDescriptors() {
  std::vector<int> open;
  DIR* folder = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(folder)) {
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != dirfd(folder)) open.push_back(fd);
  }
  closedir(folder);
  std::sort(open.begin(), open.end());
  std::printf("descriptors:");
  for (const int fd : open) std::printf(" %d", fd);
  std::printf("\n");
}

void PrintProcess() {
  for (char** variable = environ; *variable != nullptr; ++variable) {
    std::printf("env %s\n", *variable);
  }
  int death_signal = 0;
  prctl(PR_GET_PDEATHSIG, &death_signal);
  std::printf("leader %d death_signal %d cwd %s\n", getpgrp() == getpid(), death_signal,
              std::filesystem::current_path().c_str());
}

// A process in the same group that would outlive this one.
void StartGrandchild() {
  const pid_t pid = fork();
  if (pid == 0) {
    for (;;) pause();
  }
  std::printf("grandchild %d\n", pid);
}

void Write(const Child& child, const std::string& path, size_t size) {
  const std::filesystem::path file = std::filesystem::path(child.output_dir) / path;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << std::string(size, 'x');
}

// A folder with a state of `size` bytes, and the message that it is whole. A name that begins with
// "link-" is a link to such a folder, one with "more-" has a file too many.
void WriteCheckpoint(Child& child, const std::string& name, int step, size_t size) {
  const std::filesystem::path folder = child.task.train().checkpoint_dir();
  const bool is_link = name.starts_with("link-");
  const std::filesystem::path dir = is_link ? folder / "elsewhere" : folder / name;
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "manifest.json") << "{}";
  std::ofstream(dir / "state.safetensors") << std::string(size, 'c');
  if (name.starts_with("more-")) std::ofstream(dir / "more") << "x";
  if (is_link) std::filesystem::create_directory_symlink(dir, folder / name);
  pb::ChildMessage message;
  message.mutable_checkpoint()->set_name(name);
  message.mutable_checkpoint()->set_step(step);
  child.Send(message);
}

void WaitForRendezvous(Child& child) {
  const pb::ParentMessage message = child.Receive();
  std::printf("rendezvous %s %d\n", message.rendezvous().host().c_str(),
              message.rendezvous().port());
}

void CheckRendezvousSocket(const Child& child) {
  int listening = 0;
  socklen_t size = sizeof listening;
  getsockopt(child.task.train().rendezvous_fd(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size);
  std::printf("listening %d\n", listening);
}

void WaitForCancel(Child& child) {
  while (!child.Receive().has_cancel()) {
  }
  child.Fail(1, "cancelled");
  _exit(0);
}

void Serve(Child& child) {
  while (true) {
    const pb::ParentMessage request = child.Receive();
    if (request.has_cancel()) _exit(0);
    if (!request.has_generate()) continue;
    pb::ChildMessage answer;
    answer.mutable_text()->set_request_id(request.generate().request_id());
    answer.mutable_text()->mutable_response()->set_text(
        request.generate().adapter_dir().empty()                                 ? "base"
        : std::filesystem::exists(request.generate().adapter_dir() + "/adapter") ? "tuned"
                                                                                 : "missing");
    child.Send(answer);
    answer.mutable_text()->mutable_response()->clear_text();
    answer.mutable_text()->mutable_response()->set_finish_reason("stop");
    child.Send(answer);
  }
}

void Report(Child& child, const std::string& verb, std::istream& words) {
  pb::ChildMessage message;
  int number = 0;
  std::string text;
  if (verb == "step") {
    words >> number;
    message.mutable_step()->set_step(number);
  } else if (verb == "phase") {
    words >> text;
    message.mutable_phase()->set_name(text);
  } else if (verb == "done") {
    message.mutable_done()->set_adapter_sha256("aa");
  } else if (verb == "progress") {
    std::getline(words, text);
    message.set_progress(text);
  } else {
    std::fprintf(stderr, "fake_child: unknown word %s\n", verb.c_str());
    _exit(1);
  }
  child.Send(message);
}

void Do(Child& child, const std::string& line) {
  std::istringstream words(line);
  std::string verb;
  std::string text;
  int number = 0;
  words >> verb;
  if (verb == "print") {
    std::getline(words, text);
    std::printf("%s\n", text.c_str());
  } else if (verb == "flood") {
    words >> number;
    for (int i = 0; i < number; ++i) std::printf("line %d of a flood of lines\n", i);
  } else if (verb == "write") {
    words >> text >> number;
    Write(child, text, static_cast<size_t>(number));
  } else if (verb == "checkpoint") {
    int step = 0;
    words >> text >> step >> number;
    WriteCheckpoint(child, text, step, static_cast<size_t>(number));
  } else if (verb == "link") {
    std::filesystem::create_directories(child.output_dir);
    std::filesystem::create_symlink("/etc/hostname", child.output_dir + "/link");
  } else if (verb == "fail") {
    words >> number;
    std::getline(words, text);
    child.Fail(number, text.substr(1));
  } else if (verb == "exit") {
    words >> number;
    std::fflush(stdout);
    _exit(number);
  } else if (verb == "raise") {
    words >> number;
    std::fflush(stdout);
    raise(number);
  } else if (verb == "close") {
    close(kChildChannelFd);
  } else if (verb == "garbage") {
    send(kChildChannelFd, "\xff\xff\xff\xff", 4, 0);
  } else if (verb == "hang") {
    std::fflush(stdout);
    for (;;) pause();
  } else if (verb == "descriptors") {
    PrintDescriptors();
  } else if (verb == "process") {
    PrintProcess();
  } else if (verb == "grandchild") {
    StartGrandchild();
  } else if (verb == "wait-rendezvous") {
    WaitForRendezvous(child);
  } else if (verb == "check-rendezvous") {
    CheckRendezvousSocket(child);
  } else if (verb == "wait-cancel") {
    std::fflush(stdout);
    WaitForCancel(child);
  } else if (verb == "wait-pause") {
    while (!child.Receive().has_pause()) {
    }
  } else if (verb == "serve") {
    Serve(child);
  } else {
    Report(child, verb, words);
  }
}

}  // namespace
}  // namespace lathe

int main(int argc, char** argv) {
  if (argc != 2 || std::string(argv[1]) != "worker") return 64;
  lathe::Child child;
  child.task = child.Receive().task();
  std::stringstream script;  // Read at once: an open file would be among the descriptors.
  script << std::ifstream(lathe::ScriptPath(child)).rdbuf();
  for (std::string line; std::getline(script, line);) {
    lathe::Do(child, line);
    std::fflush(stdout);
  }
  return 0;
}
