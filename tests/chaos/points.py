"""Every fault point of the programs (common/fault/fault.h): where it is passed, and what may be done to it there.

A point that returns no error obeys kill, stop and delay. The others name the errors that their place must survive. Phases are
those of a round in chaos.py: a point is armed when its phase begins and disarmed when it ends.
"""

from dataclasses import dataclass

SILENT = ("kill", "stop", "delay=300")
PEER = "error=14"  # Unavailable: as a lost connection.
DISK = ("nospace", "error")


@dataclass(frozen=True)
class Point:
    name: str
    program: str  # "coordinator", "worker" (the agent and its children), or "any": whoever comes first.
    phases: tuple
    actions: tuple
    hits: int = 1  # At most: the fault fires at the first to so-many-eth pass.


def _points(program, phases, actions, names, hits=1):
    return [Point(name, program, phases, actions, hits) for name in names.split()]


POINTS = [
    # The coordinator: every transaction before and after, every message that it receives or answers.
    *_points("coordinator", ("start",), ("kill", "stop", "delay=300"), "coordinator.start coordinator.restore"),
    *_points("coordinator", ("import",), SILENT + ("error=14",), "store.model store.dataset"),
    *_points("coordinator", ("submit",), SILENT, "store.created_job"),
    *_points("coordinator", ("submit",), SILENT + ("error=14",), "store.create_job rpc.created_job"),
    *_points("coordinator", ("submit", "train", "end", "resume"), SILENT, "store.commit store.committed coordinator.decided"),
    *_points("coordinator", ("submit", "resume"), SILENT, "coordinator.commanded"),
    *_points("coordinator", ("train", "resume"), SILENT + ("error",), "store.step", 20),
    *_points("coordinator", ("start",), SILENT, "coordinator.registered"),
    *_points("coordinator", ("start",), SILENT + ("error=14",), "coordinator.register"),
    *_points("coordinator", ("train", "resume"), SILENT + ("error",), "coordinator.heartbeat", 4),
    *_points("coordinator", ("train", "resume"), SILENT, "coordinator.update", 20),
    *_points("coordinator", ("submit", "end"), SILENT, "coordinator.ended", 2),
    *_points("coordinator", ("train", "resume"), SILENT + DISK, "coordinator.checkpoint", 2),
    *_points("coordinator", ("submit", "train", "end"), SILENT + ("error=14",), "rpc.upload rpc.uploaded", 2),
    *_points("coordinator", ("submit",), SILENT + ("error=14",), "rpc.download", 3),
    *_points("any", ("import", "submit", "train", "end"), SILENT + ("error=14", "nospace"), "blob.write blob.fsync blob.rename blob.renamed blob.published"),
    # The agent: life of an assignment, and what it sends.
    *_points("worker", ("start",), SILENT, "agent.start agent.connect agent.registered"),
    *_points("worker", ("submit", "resume"), SILENT, "agent.assignment agent.spawned"),
    *_points("worker", ("submit", "resume"), SILENT + ("error=14", "nospace"), "agent.fetch agent.fetched agent.download agent.spawn"),
    *_points("worker", ("submit", "resume"), SILENT + ("error=14",), "agent.rendezvous"),
    *_points("worker", ("resume",), SILENT, "agent.cancel"),
    *_points("worker", ("train", "resume"), SILENT + ("error",), "agent.update", 30),
    *_points("worker", ("train", "resume"), SILENT + ("error",), "agent.heartbeat", 4),
    *_points("worker", ("train", "resume"), SILENT + DISK, "agent.checkpoint", 2),
    *_points("worker", ("train", "resume"), SILENT, "agent.checkpoint_stored", 2),
    *_points("worker", ("submit", "end"), SILENT, "agent.outputs agent.clean"),
    *_points("worker", ("submit", "end"), SILENT + ("error",), "agent.ended"),
    *_points("worker", ("submit", "end"), SILENT + ("error=14", "nospace"), "agent.reaped agent.upload"),
    # Its children: rows, ranks, checkpoints, the export.
    *_points("worker", ("submit",), SILENT, "prepare.start prepare.result prepare.told"),
    *_points("worker", ("submit",), SILENT + (PEER, "nospace"), "prepare.rows"),
    *_points("worker", ("submit", "resume"), SILENT, "trainer.start"),
    *_points("worker", ("submit", "resume"), SILENT + (PEER,), "train.load train.join train.joined train.evaluate"),
    *_points("worker", ("train", "resume"), SILENT + (PEER,), "train.micro_batch train.reduce train.reduced train.optimizer train.report", 20),
    *_points("worker", ("train", "resume"), SILENT + DISK,
             "checkpoint.begin checkpoint.write checkpoint.written checkpoint.manifest checkpoint.publish folder.fsync folder.rename "
             "folder.renamed", 2),
    *_points("worker", ("train",), SILENT + DISK, "checkpoint.prune"),
    *_points("worker", ("train", "resume"), SILENT + DISK, "file.write file.fsync file.rename file.renamed", 2),
    *_points("worker", ("resume",), SILENT, "resume.open resume.restored"),
    *_points("worker", ("end",), SILENT + (PEER, "nospace"), "train.export train.exported train.verify"),
    *_points("worker", ("end",), SILENT, "trainer.result trainer.told"),
]
