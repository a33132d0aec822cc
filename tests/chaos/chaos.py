"""Seeded faults on real processes; scripts/chaos says how to run it.

A round counts if its fault happened in the phase that it names. One whose fault did not happen is run again with the next seed.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import functools
import random
import re
import sys
import threading
import time

import faults
from points import POINTS
from rounds import Broken, RoundRun

MAX_TRIES = 6  # Of a round whose fault does not happen.
SEED_STRIDE = 1_000_000


@dataclasses.dataclass
class Outcome:
    plan: faults.Round
    fired: bool
    error: str
    seconds: float
    log: str = ""


class Chaos:
    def __init__(self):
        self.reference = None
        self.printing = threading.Lock()

    def say(self, text):
        with self.printing:
            print(text, flush=True)

    def measure_reference(self):
        """The undisturbed run, twice: a difference would be no fault's doing."""
        self.reference = RoundRun(None, None).run()
        RoundRun(None, self.reference).run()
        self.say(f"undisturbed: adapter {self.reference.adapter[:16]}, ledger {self.reference.ledger}, {len(self.reference.losses)} steps")

    def once(self, plan):
        start = time.monotonic()
        run = RoundRun(plan, self.reference)
        error = log = ""
        try:
            run.run()
        except Broken as broken:
            error = str(broken)
        except Exception as broken:  # pylint: disable=broad-except
            error = f"{type(broken).__name__}: {broken}"
        if error and run.cluster is not None:
            log = run.last_logs
        return Outcome(plan, run.fired, error, time.monotonic() - start, log)

    def settle(self, make_plan, seed):
        """Runs make_plan(seed), make_plan(seed'), ... until the fault happens."""
        outcome = None
        for i in range(MAX_TRIES):
            outcome = self.once(make_plan(seed + i * SEED_STRIDE))
            if outcome.fired or outcome.error:
                break
            self.say(f"     did not happen: {outcome.plan}")
        verdict = "FAIL" if outcome.error else ("ok  " if outcome.fired else "MISS")
        self.say(f"{verdict} {outcome.seconds:5.1f} s  {outcome.plan}" + (f"\n     {outcome.error}\n{outcome.log}" if outcome.error else ""))
        return outcome


def report(outcomes, say):
    """True: all rounds counted and nothing was broken."""
    happened = collections.Counter(o.plan.fault.point or o.plan.fault.outside for o in outcomes if o.fired)
    never = [point.name for point in POINTS if point.name not in happened]
    failed = [o for o in outcomes if o.error]
    missed = [o for o in outcomes if not o.error and not o.fired]
    say("\nhow often each happened: " + ", ".join(f"{name} {count}" for name, count in sorted(happened.items())))
    if never:
        say(f"points not hit: {', '.join(never)}")
    say(f"{len(outcomes)} rounds: {len(outcomes) - len(failed) - len(missed)} kept every promise, {len(failed)} did not, "
        f"in {len(missed)} the fault did not happen")
    for outcome in failed:
        say(f"again: scripts/chaos --again {outcome.plan.seed} ({outcome.plan.fault})")
    return not failed and not missed


def plans(options):
    """(make_plan, seed) of every round."""
    chosen = [p for p in POINTS if options.only is None or re.search(options.only, p.name)]
    if options.again is not None:
        yield faults.random_round, options.again
    for point in chosen:
        combinations = [(phase, action) for phase in point.phases for action in point.actions] if options.actions else [(None, None)]
        for phase, action in combinations if options.points or options.actions else ():
            yield functools.partial(faults.round_of_point, point, phase=phase, action=action), options.seed
    seeds = random.Random(options.seed)
    for _ in range(options.rounds):
        yield faults.random_round, seeds.randrange(SEED_STRIDE)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Seeded faults on real processes while a job trains.")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of faults; default 1")
    parser.add_argument("--rounds", type=int, default=0, help="random rounds")
    parser.add_argument("--points", action="store_true", help="every fault point once")
    parser.add_argument("--actions", action="store_true", help="every action at every fault point in every phase")
    parser.add_argument("--only", metavar="REGEX", help="with --points and --actions: points whose name has it")
    parser.add_argument("--again", type=int, metavar="SEED", help="the random round of this seed")
    parser.add_argument("--jobs", type=int, default=2, help="rounds at the same time; default 2")
    options = parser.parse_args(arguments)
    if not (options.points or options.actions or options.rounds or options.again is not None):
        parser.error("nothing to do; pass --points, --actions, --rounds or --again")
    return options


def main():
    options = parse(sys.argv[1:])
    chaos = Chaos()
    chaos.measure_reference()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda pair: chaos.settle(*pair), plans(options)))
    return 0 if report(outcomes, chaos.say) else 1


if __name__ == "__main__":
    sys.exit(main())
