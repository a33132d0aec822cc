"""The checks are checked: bugs of the kind that lose work are put into a copy of the code, and a test must fail for each.

Builds in build/planted; the working tree stays as it is. What is not committed is not looked at.
"""

import argparse
import dataclasses
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COPY = os.path.join(ROOT, "build", "planted")
CHAOS_TARGETS = ("lathe", "lathe-coordinator-chaos", "lathe-worker-chaos", "lathe-trainer-chaos", "lathe-prepare-chaos")


@dataclasses.dataclass(frozen=True)
class Bug:
    name: str
    file: str
    old: str
    new: str
    targets: tuple
    command: str  # In the copy; must fail, and say `words`.
    words: str


def gtest(name):
    return f"build/release/tests/{name} --gtest_brief=1"


def chaos(points):
    return f"python3 tests/chaos/chaos.py --points --only '{points}'"


BUGS = [
    Bug("skipped parent fsync", "common/base/file.cc",
        "  return FsyncFolder(target.parent_path());\n}", "  return absl::OkStatus();\n}",
        ("worker_engine_checkpoint_test",), gtest("worker_engine_checkpoint_test"), "APublishedCheckpointOutlivesALossOfPower"),
    Bug("replayed batch", "worker/engine/train/trainer.cc",
        "  num_done_ = state.num_done;\n", "  num_done_ = state.num_done - 1;\n",
        CHAOS_TARGETS, chaos("^resume.restored$"), "did not end|undisturbed"),
    Bug("missing fence", "coordinator/core/core.cc",
        "assignment.owner == owner && assignment.attempt == attempt;", "assignment.owner == owner && attempt >= 0;",
        ("coordinator_core_test",), gtest("coordinator_core_test"), "FAILED"),
    Bug("moments not restored", "worker/engine/train/trainer.cc",
        "  optimizer_.Restore(state.first_moments, state.second_moments, state.num_done);\n", "",
        CHAOS_TARGETS, chaos("^resume.restored$"), "undisturbed"),
    Bug("wrong random index", "worker/engine/train/trainer.cc",
        "static_cast<uint64_t>(num_done_), uint64_t{index}});", "static_cast<uint64_t>(num_timed_), uint64_t{index}});",
        CHAOS_TARGETS, chaos("^resume.restored$"), "did not|FAILED"),
    Bug("commit before publish", "worker/agent/checkpoint_relay.cc",
        "  const absl::StatusOr<v1::FileTree> files = Store(written.name(), stop);\n",
        "  pb::SavedCheckpoint early;\n  early.set_step(written.step());\n  publish_(std::move(early));\n"
        "  const absl::StatusOr<v1::FileTree> files = Store(written.name(), stop);\n",
        ("worker_agent_test",), gtest("worker_agent_test"), "ACheckpointIsUploadedBeforeItIsReported"),
]


def git(*arguments, cwd=ROOT):
    return subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def make_copy():
    if os.path.isdir(COPY):
        git("checkout", "--quiet", "--force", "--detach", git("rev-parse", "HEAD").strip(), cwd=COPY)
    else:
        git("worktree", "prune")
        git("worktree", "add", "--quiet", "--detach", COPY)
    subprocess.run(["cmake", "--preset", "release"], cwd=COPY, check=True, stdout=subprocess.DEVNULL)


def build(targets):
    done = subprocess.run(["cmake", "--build", "--preset", "release", "--target", *targets], cwd=COPY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the copy does not build:\n{done.stdout[-3000:]}")


def plant(bug):
    path = os.path.join(COPY, bug.file)
    with open(path, encoding="utf8") as f:
        text = f.read()
    if text.count(bug.old) != 1:
        sys.exit(f"{bug.name}: {bug.file} has {text.count(bug.old)} places for it; must have 1")
    with open(path, "w", encoding="utf8") as f:
        f.write(text.replace(bug.old, bug.new))


def run(bug):
    """(failed, output) of the bug's check."""
    environment = {**os.environ, "LATHE_BIN_DIR": os.path.join(COPY, "build/release/bin"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(bug.command, shell=True, cwd=COPY, env=environment, capture_output=True, text=True, check=False)
    return done.returncode != 0, done.stdout + done.stderr


def try_bug(bug):
    """What is wrong with the check; empty: it catches the bug."""
    build(bug.targets)
    failed, output = run(bug)
    if failed:
        return f"fails without the bug:\n{output[-2000:]}"
    plant(bug)
    try:
        build(bug.targets)
        failed, output = run(bug)
    finally:
        git("checkout", "--quiet", "--", bug.file, cwd=COPY)
    if not failed:
        return "does not notice the bug"
    if not re.search(bug.words, output):
        return f"fails for another reason:\n{output[-2000:]}"
    return ""


def main():
    parser = argparse.ArgumentParser(prog="scripts/planted-bugs", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="REGEX", help="bugs whose name has it")
    options = parser.parse_args()
    make_copy()
    bad = 0
    for bug in BUGS:
        if options.only and not re.search(options.only, bug.name):
            continue
        fault = try_bug(bug)
        bad += bool(fault)
        print(f"{'caught' if not fault else 'FAIL  '}  {bug.name}: {bug.command}" + (f"\n        {fault}" if fault else ""), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
