"""What must hold after every run, whatever happened in it: checks of a history as it was seen from outside.

Each is a function of a history that returns how much it looked at and a sentence per violation, naming the job. What it
excuses it counts, so that a report can tell of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise

from domain.job import SUSPECT_FROM
from tests.chaos.history import CLOCKS, Call, End, History, Job, Run

FINAL = {"completed", "failed", "cancelled"}
COUNTED = {"attempts": {"completed", "failed", "expired"}, "crashes": {"crashed"}, "give_backs": {"given_back"}}
"""Outcomes of runs by the count that they add to."""

BY_HAND = {"cancelled", "retried", "preempted"}
"""Outcomes of runs whose jobs were taken away while their workers lived: they then close the calls."""

MAX_CRASHES = 3
NOT_RETRIED = {"bad_audio", "bad_input", "context_length", "unsupported_task", "cancelled"}

HANG_UP = 1.0
"""Seconds after which the provider has noticed at the latest that a caller has left."""

CLOSING = 5.0
"""Seconds after which a worker that lives has heard that its job was taken away, and has left the provider."""

LOCKED = 5.0
"""Seconds that a transaction may have waited for the one before it: its time is that of its beginning."""

PASSED_OVER = 5.0
"""Seconds for which a job may be overlooked by claims: its row was locked, or a look from a line's beginning is due."""


@dataclass
class Checked:
    """What a check looked at and found."""

    what: str
    count: int = 0
    violations: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)
    """By why."""
    examples: list[str] = field(default_factory=list)
    """Of what was excused."""


Check = Callable[[History], Checked]


def check(history: History) -> list[Checked]:
    return [each(history) for each in CHECKS]


def accepted_jobs_end(history: History) -> Checked:
    found = Checked("every accepted job is in exactly one final state")
    for submission in history.submissions:
        for job_id in set(submission.ids):
            found.count += 1
            job = history.job_of.get(job_id)
            if job is None:
                found.violations.append(f"{submission.name} ({job_id}) was accepted and is lost")
            elif job.status not in FINAL or not job.finished:
                found.violations.append(f"{submission.name} ({job_id}) is {job.status} after all")
    return found


def submissions_never_double(history: History) -> Checked:
    found = Checked("a submission makes one job, however often it is sent; there is no job that nobody submitted")
    known = {submission.name for submission in history.submissions}
    made = Counter(job.name for job in history.jobs)
    for submission in history.submissions:
        found.count += 1
        if len(set(submission.ids)) > 1:
            found.violations.append(f"{submission.name} was answered with several jobs: {sorted(set(submission.ids))}")
        if made[submission.name] > 1:
            found.violations.append(f"{submission.name} is stored {made[submission.name]} times")
        job = history.job_named.get(submission.name)
        if job and submission.ids and job.id not in submission.ids:
            found.violations.append(f"{submission.name} is stored as {job.id}, and was answered as {submission.ids[0]}")
    found.violations += [
        f"{job.name} ({job.id}) was submitted by nobody" for job in history.jobs if job.name not in known
    ]
    return found


def histories_are_whole(history: History) -> Checked:
    found = Checked("the changes of a job's state are numbered without a gap, and its state is what the last one made")
    for job in history.jobs:
        found.count += 1
        runs, changes = history.runs_of.get(job.id, []), history.changes_of.get(job.id, [])
        numbers = [number for run in runs for number in (run.number - 1, run.number)]
        numbers += [change.number for change in changes]
        if sorted(numbers) != list(range(2, job.number + 1)):
            found.violations.append(f"{job.name}: its changes are {sorted(numbers)}, its number is {job.number}")
        moves = [(run.number, run.became) for run in runs] + [(change.number, change.status) for change in changes]
        if moves and max(moves)[1] != job.status:
            found.violations.append(f"{job.name} is {job.status}, and its last change made it {max(moves)[1]}")
    return found


def counts_are_those_of_runs(history: History) -> Checked:
    found = Checked("attempts, crashes and give-backs are those of the runs since the last retry by hand")
    for job in history.jobs:
        found.count += 1
        runs = _since_retried(history, job)
        for name, outcomes in COUNTED.items():
            counted = sum(run.outcome in outcomes for run in runs)
            if counted != getattr(job, name):
                found.violations.append(f"{job.name} has {name} {getattr(job, name)}, and {counted} such runs")
        if job.attempts > job.max_attempts:
            found.violations.append(f"{job.name} had {job.attempts} attempts of {job.max_attempts}")
        hopeless = job.attempts >= job.max_attempts or job.crashes >= MAX_CRASHES or job.error_code in NOT_RETRIED
        if job.status == "failed" and not hopeless:
            found.violations.append(f"{job.name} failed with {job.error_code} before its attempts were used up")
    return found


def _since_retried(history: History, job: Job) -> list[Run]:
    """The runs that its counts are about."""
    retried = max(_retries(history, job), default=0)
    return [run for run in history.runs_of.get(job.id, []) if run.number > retried]


def _retries(history: History, job: Job) -> list[int]:
    """The changes of its state by which it was retried by hand."""
    retries = [run.number for run in history.runs_of.get(job.id, []) if run.outcome == "retried"]
    return retries + [change.number for change in history.changes_of.get(job.id, []) if change.status == "pending"]


def _after_two_crashes(history: History, job: Job) -> Iterable[Run]:
    """Its runs that began when two of its workers had died, which a retry by hand makes forgotten."""
    retries = _retries(history, job)
    crashed_at: list[int] = []
    for run in history.runs_of.get(job.id, []):
        if crashed_at and any(crashed_at[-1] <= number < run.number for number in retries):
            crashed_at = []
        if len(crashed_at) >= SUSPECT_FROM:
            yield run
        if run.outcome == "crashed":
            crashed_at.append(run.number)


def results_are_of_their_runs(history: History) -> Checked:
    found = Checked("a completed job has one result, that of the run that completed it; no other job has one")
    calls = {call.serial: call for call in history.calls}
    for job in history.jobs:
        found.count += 1
        completed = [run for run in history.runs_of.get(job.id, []) if run.outcome == "completed"]
        if (job.status == "completed", len(completed)) not in {(True, 1), (False, 0)}:
            found.violations.append(f"{job.name} is {job.status}, and {len(completed)} of its runs completed it")
        elif job.status != "completed":
            if job.result is not None:
                found.violations.append(f"{job.name} is {job.status} and has a result")
        elif why := _is_not_of(job, completed[0], calls):
            found.violations.append(f"{job.name}: {why}")
    return found


def _is_not_of(job: Job, run: Run, calls: dict[int, Call]) -> str:
    """Why the job's result cannot be that of this run; nothing where it is."""
    said = job.result or ""
    if not said:
        return "it is completed and has no result"
    if said.startswith("lease "):
        return "" if said == f"lease {run.token}" else f"its result is of {said}, not of the run that completed it"
    call = calls.get(int(said.rpartition("#")[2] or 0))
    if call is None:
        return f"nobody said its result: {said}"
    right = call.name == job.name and call.place == run.place and call.how is End.ANSWERED
    if right and run.began - CLOCKS <= call.began and call.ended <= run.ended + CLOCKS:
        return ""
    return f"its result is of call {call.serial} ({call.name}, {call.place}), not of the run by {run.worker}"


def leases_never_overlap(history: History) -> Checked:
    found = Checked("no two runs of a job hold it at once")
    for job_id, runs in history.runs_of.items():
        for one, other in pairwise(runs):
            found.count += 1
            if other.began < one.ended - LOCKED or one.ended < one.began - LOCKED:
                name = history.job_of[job_id].name
                found.violations.append(
                    f"{name}: {other.worker} began {one.ended - other.began:.3f} s before {one.worker} had ended"
                )
    return found


def calls_are_runs(history: History) -> Checked:
    found = Checked("the provider was called at most once per run, while the run held its job")
    for name, calls in history.calls_of.items():
        found.count += len(calls)
        job = history.job_named.get(name)
        runs = history.runs_of.get(job.id, []) if job else []
        if len(calls) > len(runs):
            found.violations.append(f"{name}: {len(calls)} calls in {len(runs)} runs")
        for call in calls:
            run = history.run_of(call)
            if run is None:
                found.violations.append(f"{name}: a call by {call.place} that had no run of it")
            elif call.began > run.ended + CLOCKS:
                if why := _excuse(history, call, run):
                    found.excused[f"begun after its run had ended: {why}"] += 1
                    late = f"{call.began - run.ended:.3f} s after its run of {run.ended - run.began:.3f} s"
                    found.examples.append(f"{name}: {run.worker} called {late} was {run.outcome}: {why}")
                else:
                    found.violations.append(
                        f"{name}: {run.worker} called {call.began - run.ended:.3f} s after its run was {run.outcome}"
                    )
    return found


def calls_are_alone(history: History) -> Checked:
    found = Checked("two calls of a job are open at once only where a worker was ended, stopped or cut off")
    for name, calls in history.calls_of.items():
        for one, other in pairwise(calls):
            found.count += 1
            if other.began >= _left(one) - CLOCKS:
                continue
            if why := _excuse(history, one, history.run_of(one)):
                found.excused[why] += 1
                found.examples.append(f"{name}: {one.place} and {other.place} from {other.began:.3f} on: {why}")
            else:
                found.violations.append(
                    f"{name}: {other.place} called {one.ended - other.began:.3f} s before the call of {one.place} "
                    f"was over ({one.how})"
                )
    return found


def _left(call: Call) -> float:
    """When its caller was done with it, at the earliest."""
    return max(call.began, call.ended - HANG_UP) if call.how is End.HUNG_UP else call.ended


def _excuse(history: History, call: Call, run: Run | None) -> str:
    """Why a call may have been open although its run had lost the job; nothing where it may not."""
    if trouble := history.troubled(call.place, call.began, call.ended):
        return f"its worker was in trouble ({trouble.why})"
    if run and run.outcome in BY_HAND and _left(call) <= run.ended + CLOSING:
        return f"its job was {run.outcome}, and it was being closed"
    return ""


def limits_hold(history: History) -> Checked:
    found = Checked("no more calls are open than the queue has slots, those of workers in trouble aside")
    if not history.limit:
        return found
    steps: list[tuple[float, int, Call]] = []
    for call in history.calls:
        found.count += 1
        until = _left(call)
        run = history.run_of(call)
        if run and history.troubled(call.place, call.began, call.ended):
            until = min(until, run.ended)
            if until < _left(call):
                found.excused["calls left open by a worker in trouble"] += 1
        if until > call.began:
            steps += [(call.began, 1, call), (until, -1, call)]
    running: set[int] = set()
    for at, step, call in sorted(steps, key=lambda each: each[:2]):
        if step < 0:
            running.discard(call.serial)
            continue
        running.add(call.serial)
        if len(running) > history.limit:
            found.violations.append(f"{call.name}: its call at {at:.3f} was open with {len(running) - 1} others")
    return found


def urgent_jobs_go_first(history: History) -> Checked:
    """A run is not begun while a more urgent job has long been ready for it.

    Only what is sure is looked at: the first run of jobs that were to start at once, from when their callers heard that
    they were accepted; not while a circuit was not closed, for then jobs are tried out of turn.
    """
    found = Checked("no job is started while a more urgent one of its queue has been waiting for long")
    first = {runs[0].job_id: runs[0] for runs in history.runs_of.values()}
    accepted = {s.name: s.accepted_at for s in history.submissions if s.accepted_at and not s.scheduled}
    waits: list[tuple[float, float, Job]] = []
    for job in history.jobs:
        if job.queue and job.name in accepted:
            cancelled = [change.at for change in history.changes_of.get(job.id, [])]
            ends = [*cancelled, *([first[job.id].began] if job.id in first else [])]
            waits.append((accepted[job.name] + PASSED_OVER, min(ends, default=float("inf")), job))
    coming = deque(sorted((wait for wait in waits if wait[0] < wait[1]), key=lambda wait: wait[:2]))
    waiting: defaultdict[str | None, list[tuple[int, float, str]]] = defaultdict(list)
    for job in sorted(
        (job for job in history.jobs if job.queue and job.id in first), key=lambda job: first[job.id].began
    ):
        began = first[job.id].began
        while coming and coming[0][0] <= began:
            _, until, other = coming.popleft()
            heappush(waiting[other.queue], (other.priority, until, other.name))
        here = waiting[job.queue]
        while here and here[0][1] <= began:
            heappop(here)
        if any(start <= began <= end for start, end in history.unordered):
            continue
        found.count += 1
        if here and here[0][0] < job.priority:
            priority, _, name = here[0]
            found.violations.append(
                f"{job.name} (priority {job.priority}) was started at {began:.3f} while {name} ({priority}) "
                f"had been waiting for more than {PASSED_OVER:g} s"
            )
    return found


def the_living_keep_their_jobs(history: History) -> Checked:
    found = Checked("no job is rescued from a worker that was neither ended nor stopped nor cut off")
    for run in history.runs:
        if run.outcome != "crashed":
            continue
        found.count += 1
        if not history.troubled(run.place, run.began, run.ended):
            name = history.job_of[run.job_id].name if run.job_id in history.job_of else run.job_id
            found.violations.append(f"{name} was rescued from {run.worker}, which was well")
    return found


def suspects_run_alone(history: History) -> Checked:
    found = Checked(
        "a job whose worker died twice while running it is run by a process that runs nothing else meanwhile"
    )
    by_worker: defaultdict[str, list[Run]] = defaultdict(list)
    for run in sorted(history.runs, key=lambda run: run.began):
        by_worker[run.worker].append(run)
    suspects = {run.token for job in history.jobs for run in _after_two_crashes(history, job)}
    for worker, runs in by_worker.items():
        if "/" not in worker:
            continue  # outside
        running: list[Run] = []
        for run in runs:
            running = [other for other in running if other.ended > run.began + CLOCKS]
            if run.token in suspects:
                found.count += 1
            company = [other for other in running if suspects.intersection({run.token, other.token})]
            running.append(run)
            if company:
                names = [history.job_of[each.job_id].name for each in (run, company[0])]
                found.violations.append(f"{names[0]} was started at {run.began:.3f} by {worker}, which ran {names[1]}")
    return found


def events_have_no_gap(history: History) -> Checked:
    found = Checked("the events of a job come in order and without a gap, also to who comes back for them")
    for followed in history.followed:
        found.count += len(followed.ids)
        if followed.resumed:
            found.excused["streams taken up again"] += followed.resumed
        last = report = 0
        for event_id in followed.ids:
            number, _, rest = event_id.partition(".")
            if not rest:
                expected = int(number) == last + 1
                last, report = int(number), 0
            elif rest == "done":
                expected = int(number) == last
            elif "." in rest:  # a piece of text, which may be told when its run has ended already
                expected = int(number) <= last
            else:
                # A report may be heard of when its run has ended already.
                expected = int(number) <= last and (int(number) < last or int(rest) > report)
                report = int(rest) if int(number) == last else report
            if not expected:
                found.violations.append(f"{followed.name}: its events came as {' '.join(followed.ids)}")
                break
    return found


def slots_are_counted(history: History) -> Checked:
    found = Checked("the slots that count as taken are those of runs, at every look, and none after all", count=1)
    found.violations += history.miscounted
    found.violations += [f"{line}: {busy} slots are taken after all" for line, busy in history.busy.items() if busy]
    if history.closing_slots:
        found.violations.append(f"{history.closing_slots} slots are being closed after all")
    return found


def nothing_is_left(history: History) -> Checked:
    found = Checked("no process, connection, lock, consumer or temporary file is left when all is stopped", count=1)
    found.violations += history.left
    return found


CHECKS: Iterable[Check] = (
    accepted_jobs_end,
    submissions_never_double,
    histories_are_whole,
    counts_are_those_of_runs,
    results_are_of_their_runs,
    leases_never_overlap,
    calls_are_runs,
    calls_are_alone,
    limits_hold,
    urgent_jobs_go_first,
    the_living_keep_their_jobs,
    suspects_run_alone,
    events_have_no_gap,
    slots_are_counted,
    nothing_is_left,
)
