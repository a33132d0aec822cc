"""What happens in a round: one fault, from inside a program or from outside, in a phase of the job."""

import dataclasses
import random

from points import POINTS

# From outside: name -> phases. cluster.py does them.
OUTSIDE = {
    "host lost with its disk": ("train", "resume", "end"),
    "coordinator away": ("submit", "train", "resume", "end"),
    "link held": ("submit", "train", "resume", "end"),
    "link cut": ("submit", "train", "resume", "end"),
    "worker frozen": ("submit", "train", "end"),
    "worker told to stop": ("submit", "train", "end"),
    "worker killed": ("submit", "train", "resume", "end"),
    "rank killed": ("train", "end"),
    "rank frozen": ("train",),
    "rank frozen for good": ("train",),
}
OUTSIDE_SHARE = 0.35


@dataclasses.dataclass(frozen=True)
class Fault:
    phase: str
    point: str = ""  # Empty: from outside.
    program: str = ""
    action: str = ""
    hit: int = 1
    outside: str = ""
    seconds: float = 0.0  # Of what does not last.

    def __str__(self):
        what = f"{self.point}:{self.action}@{self.hit}" if self.point else self.outside
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{what}{lasts} in phase {self.phase}"

    @property
    def plan(self):
        """For LATHE_FAULT."""
        return f"{self.point}:{self.action}@{self.hit}"


def of_point(point, rng, phase=None, action=None):
    action = action or rng.choice(point.actions)
    return Fault(phase=phase or rng.choice(point.phases), point=point.name, program=point.program, action=action,
                 hit=rng.randint(1, point.hits), seconds=round(rng.uniform(0.2, 1.5), 1) if action == "stop" else 0.0)


def from_outside(rng):
    name = rng.choice(sorted(OUTSIDE))
    return Fault(phase=rng.choice(OUTSIDE[name]), outside=name, seconds=round(rng.uniform(0.1, 2.0), 1))


def random_fault(rng):
    return from_outside(rng) if rng.random() < OUTSIDE_SHARE else of_point(rng.choice(POINTS), rng)


@dataclasses.dataclass(frozen=True)
class Round:
    seed: int
    fault: Fault
    num_workers: int
    elastic: bool  # It may go on with one rank of two.

    def __str__(self):
        return f"seed {self.seed}, {self.num_workers} workers{', elastic' if self.elastic else ''}: {self.fault}"


def random_round(seed):
    rng = random.Random(seed)
    return Round(seed, random_fault(rng), rng.randint(2, 4), rng.random() < 0.5)


def round_of_point(point, seed, phase=None, action=None):
    """The seed chooses what is not given: action, phase, hit, workers."""
    rng = random.Random(f"{seed} {point.name}")
    return Round(seed, of_point(point, rng, phase, action), rng.randint(2, 4), rng.random() < 0.3)
