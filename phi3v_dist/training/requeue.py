"""What the batch script does before and after training: look at the run's past, and decide what follows.

Enters: the run folder, the Slurm job, what srun said. Leaves: a start or a reason not to; after it a finished job, a
requeued one that leaves out the nodes that spoilt two attempts, or one line that says what a person must do. The
decisions are ``attempts.py``'s; no torch in here, the script waits.
"""

from pathlib import Path

from phi3v_dist.checkpoints.choose import newest_checkpoint
from phi3v_dist.cluster import slurm
from phi3v_dist.cluster.slurm import SlurmJob
from phi3v_dist.console import say
from phi3v_dist.errors import RunError
from phi3v_dist.training import attempts
from phi3v_dist.training.attempts import Decision, is_finished

_AGAIN = "Mend the cause, then submit again: the run goes on from its last checkpoint"


def begin_job(run_folder: Path, job: SlurmJob, most_attempts: int) -> bool:
    """Whether training starts; False: the run is finished. Raises ``RunError`` where a start makes no sense."""
    attempts.make_run_folder(run_folder)
    step = _saved_step(run_folder)
    # Told first, then looked at the others: of two jobs that begin at once, the second line gives way.
    attempts.tell_begin(run_folder, job.attempt, job.nodes, step)
    events = attempts.read_events(run_folder)
    others = sorted(slurm.running_jobs(attempts.jobs_at_work(events, job.attempt)))
    if others:
        decision = Decision("stop", f"job {others[0]} is training in this run folder")
    else:
        _blame_lost_nodes(run_folder, events, job)
        decision = attempts.decide_begin(
            events, job.attempt, finished=is_finished(run_folder), step=step, most_attempts=most_attempts
        )
    if decision.action != "start":
        attempts.tell_end(run_folder, job.attempt, decision, step=step, srun_code=None, ending="running")
    if decision.action == "stop":
        mend = f"scancel {others[0]}, or give another run_folder." if others else f"{_AGAIN}."
        raise RunError(decision.reason.rstrip("."), where=str(run_folder), mend=mend)
    say(f"attempt {job.attempt} on {len(job.nodes)} nodes, {run_folder}: {decision.reason}")
    return decision.action == "start"


def end_job(run_folder: Path, job: SlurmJob, *, srun_code: int, srun_errors: str = "") -> Decision:
    """Do what follows on the end of training, and say it. Raises ``RunError`` where a person must act."""
    ending = slurm.how_it_ends(job)
    if ending == "running" and (killed := attempts.killed_node(srun_errors)):
        attempts.blame_node(run_folder, job.attempt, *killed)
    events = attempts.read_events(run_folder)
    decision = attempts.decide_end(
        events,
        job.attempt,
        finished=is_finished(run_folder),
        ending=ending,
        last_words=attempts.last_words(srun_errors),
    )
    step = _saved_step(run_folder)
    attempts.tell_end(run_folder, job.attempt, decision, step=step, srun_code=srun_code, ending=ending)
    if decision.action == "stop":
        raise RunError(decision.reason.rstrip("."), where=f"attempt {job.attempt}", mend=f"{_AGAIN}.")
    say(f"attempt {job.attempt} ends: {decision.action} ({decision.reason})")
    if decision.action == "requeue":
        bad = attempts.nodes_to_exclude(events)
        if ending != "requeued":
            _refuse_to_wait_for_ever(job, bad)
            if not slurm.requeue(job.job_id):
                raise RunError("Slurm refuses to requeue the job", where=f"job {job.job_id}", mend="Submit it again.")
        _leave_out(job, bad)
    return decision


def _refuse_to_wait_for_ever(job: SlurmJob, bad: dict[str, str]) -> None:
    """Raise ``RunError`` where the partition without its bad nodes is smaller than the job."""
    there = slurm.nodes_of_partition(job.job_id) if bad else set()
    good = there - bad.keys()
    if there and len(good) < len(job.nodes):
        told = "; ".join(f"{node}: {reason}" for node, reason in bad.items())
        what = f"{len(good)} of the partition's {len(there)} nodes are good and the job needs {len(job.nodes)} ({told})"
        raise RunError(what, where=f"job {job.job_id}", mend="Mend a node, or submit again with fewer.")


def _saved_step(run_folder: Path) -> int:
    checkpoint = newest_checkpoint(run_folder)
    return checkpoint.step if checkpoint else 0


def _blame_lost_nodes(run_folder: Path, events: list[dict], job: SlurmJob) -> None:
    """A node of the last attempt that is down now has most likely ended it."""
    last = attempts.latest_begin(events, job.attempt)
    if last is not None:
        for node, state in slurm.down_nodes([name for name in last["nodes"] if name not in job.nodes]).items():
            attempts.blame_node(run_folder, last["attempt"], node, f"Slurm has it as {state}")


def _leave_out(job: SlurmJob, nodes: dict[str, str]) -> None:
    if not nodes:
        return
    done = slurm.exclude_nodes(job.job_id, nodes)
    told = "; ".join(f"{node}: {reason}" for node, reason in nodes.items())
    say(f"left out from the next attempt: {told}" if done else f"Slurm refuses to leave out bad nodes: {told}")
    if done:
        say(f"to take them back: scontrol update JobId={job.job_id} ExcNodeList=")
