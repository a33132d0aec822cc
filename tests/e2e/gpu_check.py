#!/usr/bin/env python3
"""Jobs with device: cuda through the service, for scripts/verify-gpu: real programs, a tiny model, one GPU.

Each line that it prints is something that was seen; the first that is not ends it with exit code 1.
"""

import json
import os
import signal
import sys

from service import TINY_LLAMA, Service, wait_for, write_rows

JOB = ("epochs=30", "batch_size=5", "learning_rate=0.003", "lora.rank=4", "micro_batch_tokens=64", "base_dtype=f32")
CUDA = (*JOB, "device=cuda")
LOSS_TOLERANCE = 2e-3  # Of the held-out loss: a GPU adds in another order.


def loss(job, when="evaluation_after"):
    return job[when]["loss"]


def check(condition, what):
    print(f"  {'seen' if condition else 'NOT SEEN'}: {what}", flush=True)
    if not condition:
        sys.exit(1)


def trains_as_the_cpu(service):
    ended = {}
    for name, settings in (("cpu", JOB), ("cuda", CUDA), ("exact", (*CUDA, "reduction=exact"))):
        ended[name] = service.wait_job(service.submit(f"name={name}", *settings), seconds=120)
        check(ended[name]["state"] == "JOB_STATE_SUCCEEDED", f"job {name}: {ended[name]['state']} {ended[name].get('error', '')}")
    for name in ("cuda", "exact"):
        job = ended[name]
        check(loss(job) < loss(job, "evaluation_before"), f"job {name}: held-out loss {loss(job, 'evaluation_before'):.4f} -> {loss(job):.4f}")
        check(abs(loss(job) - loss(ended["cpu"])) <= LOSS_TOLERANCE * loss(ended["cpu"]), f"job {name}: the CPU ends at {loss(ended['cpu']):.4f}")
        check(job["ledger"] == ended["cpu"]["ledger"], f"job {name}: every sample was counted once")
    parity = service.json("models", "get", "cuda")["parity"]
    check(parity["greedy_agreement"] == 1, f"the export, loaded by another process on the GPU, answers alike: {parity}")
    return ended["cuda"], ended["exact"]


def two_exact_jobs_have_the_same_bits(service, first):
    again = service.wait_job(service.submit("name=exact-again", *CUDA, "reduction=exact"), seconds=120)
    same = again["adapter_sha256"] == first["adapter_sha256"]
    # Attention adds in no fixed order there: nothing is promised.
    print(f"  reduction: exact twice on the GPU: {'the same bits' if same else 'other bits'}", flush=True)


def goes_on_after_a_kill(service, whole):
    for attempt in range(5):
        job = service.submit(f"name=killed-{attempt}", "checkpoint.every_steps=20", *CUDA)
        wait_for(lambda: int(service.job(job)["checkpoint_step"]) >= 40, "the second checkpoint", seconds=120)
        for victim in service.trainers():
            os.kill(victim, signal.SIGKILL)
        done = service.wait_job(job, seconds=120)
        if int(done["attempt"]) == 2:
            break
    check(done["state"] == "JOB_STATE_SUCCEEDED" and int(done["attempt"]) == 2, f"a killed rank: {done['state']}, attempt {done['attempt']}")
    check(int(done.get("resumed_step", 0)) >= 40, f"it went on after step {done.get('resumed_step')}, resume_verified {done.get('resume_verified', False)}")
    check(done["ledger"] == whole["ledger"], "every sample was counted once")
    check(abs(loss(done) - loss(whole)) <= LOSS_TOLERANCE * loss(whole), f"held-out loss {loss(done):.6f}, uninterrupted {loss(whole):.6f}")


def pauses_and_goes_on(service, whole):
    job = service.submit("name=paused", "checkpoint.every_steps=1000", *CUDA)
    wait_for(lambda: int(service.job(job).get("last_step", {}).get("step", 0) or 0) >= 5, "step 5", seconds=120)
    service.run("jobs", "pause", job)
    paused = wait_for(lambda: (j := service.job(job))["state"] in ("JOB_STATE_PAUSED", "JOB_STATE_SUCCEEDED") and j, "the pause", seconds=60)
    check(paused["state"] == "JOB_STATE_PAUSED", f"paused after step {paused.get('checkpoint_step')}")
    service.run("jobs", "resume", job)
    done = service.wait_job(job, seconds=120)
    check(done["state"] == "JOB_STATE_SUCCEEDED" and done["ledger"] == whole["ledger"], f"resumed: {done['state']}, every sample once")


def waits_for_gpus_that_are_not_there(service):
    slots = sum(int(worker["slots"]) for worker in service.json("workers", "list")["workers"])
    job = service.submit("name=large", f"ranks={slots + 1}", *CUDA)
    waiting = wait_for(lambda: (j := service.job(job)).get("reason", "").startswith("waits") and j, "a reason")
    check("cuda slot" in waiting["reason"], f"a rank too many: {waiting['reason']}")
    service.run("jobs", "cancel", job)


def main():
    service = Service(gpus="all")
    try:
        rows = os.path.join(service.temp.name, "rows.jsonl")
        write_rows(rows)
        service.run("models", "import", "tiny", "--from", TINY_LLAMA)
        service.run("datasets", "upload", "rows", "--from", rows)
        print(f"  workers: {json.dumps(service.json('workers', 'list'))}", flush=True)
        whole, exact = trains_as_the_cpu(service)
        two_exact_jobs_have_the_same_bits(service, exact)
        goes_on_after_a_kill(service, whole)
        pauses_and_goes_on(service, whole)
        waits_for_gpus_that_are_not_there(service)
    except BaseException:
        print(service.logs(), file=sys.stderr)
        raise
    finally:
        service.close()


if __name__ == "__main__":
    main()
