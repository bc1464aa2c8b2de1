"""One example of each document, for the API's description. Being structs, they cannot drift from their schemas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec import Raw, json

from app.wire.chat import ChatRequestBody, ChatView, QueuedJobView, QueuedView, WithdrawnView
from app.wire.health import (
    ActiveProvider,
    Components,
    ComponentsView,
    ComponentView,
    FindingView,
    HealthDetail,
    Liveness,
    ReadinessView,
)
from app.wire.infra import ContainerView, GpuView, InfraView, ModelServerView, SpeechServerView, TargetView
from app.wire.jobs import JobRow, JobView
from app.wire.lists import JobPage
from app.wire.problem import ProblemDetails
from app.wire.providers import ProviderCircuit, ProviderList, ProviderView
from app.wire.queues import BrokerQueueView, CircuitView, QueueList, QueueStatusView, QueueView
from app.wire.runs import RunList, RunView
from app.wire.stats import (
    ErrorCount,
    FinishedCounts,
    OwnerCounts,
    QuantilesView,
    QueueCounts,
    StateCounts,
    StatsView,
    TaskTypeCounts,
    Throughput,
    WorkerList,
    WorkerView,
)
from app.wire.steer import ErasedView, Erasure, JobsWhere, SteeredView
from app.wire.submit import BatchedJob, BatchJob, BatchView, JobDefaults, NewBatch, NewJob
from app.wire.uploads import UploadDetails, UploadView
from app.wire.work import (
    ClaimedJob,
    ClaimedJobs,
    ClaimRequest,
    Completion,
    FailedRun,
    Heartbeat,
    Release,
    Renewed,
)
from domain.chat import Message
from domain.circuit import CircuitState
from domain.diagnosis import Word
from domain.errors import ErrorCode
from domain.infra import TargetKind
from domain.job import JobStatus, RunOutcome
from domain.results import ProviderAttempt, Usage
from domain.routing import ModelKind
from domain.usecases.outlook import WaitingFor

JOB_ID = UUID("01981a52-1c00-7c4e-9d2f-3b1a5e6f7081")

_SUBMITTED = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
_INPUT = Raw(b'{"messages": [{"role": "user", "content": "Summarise this call: ..."}], "max_tokens": 400}')
_RESULT = Raw(
    b'{"schema_version": "ai.chat_result.v1", "content": "The caller asks for a refund.",'
    b' "model": "qwen2.5-14b", "duration_ms": 2840}'
)

_PROGRESS = Raw(b'{"done": 12, "of": 40}')
_BATCH_ID = UUID("01981a52-1c00-7f00-8a2b-5d4c3b2a1908")
_OTHER_ID = UUID("01981a52-1c01-7a11-b3c4-d5e6f7081920")
_TOKEN = UUID("0b9f3c52-6f0e-4d1b-9f53-2c1d7a6e4b80")
_STARTED = _SUBMITTED + timedelta(seconds=1)
_ENDED = _SUBMITTED + timedelta(seconds=4)
_LEASED_UNTIL = _STARTED + timedelta(minutes=15)

NEW_JOB = NewJob(
    owner_service="beeline",
    owner_ref="beeline/call-4711",
    task_type="call_analysis",
    model_profile="qwen2.5-14b",
    priority="high",
    deadline_at=_SUBMITTED + timedelta(hours=1),
    labels={"department": "refunds"},
    idempotency_key="call-4711-analysis",
    input=_INPUT,
)

_ROW: dict[str, Any] = {
    "id": JOB_ID,
    "owner_service": "beeline",
    "owner_ref": NEW_JOB.owner_ref,
    "task_type": NEW_JOB.task_type,
    "model_profile": NEW_JOB.model_profile,
    "priority": "high",
    "status": JobStatus.COMPLETED,
    "queue": "gpu.llm",
    "error_code": None,
    "error_message": None,
    "attempts": 1,
    "max_attempts": NEW_JOB.max_attempts,
    "crashes": 0,
    "progress": None,
    "run_at": _SUBMITTED,
    "deadline_at": NEW_JOB.deadline_at,
    "worker_id": None,
    "lease_expires_at": None,
    "batch_id": None,
    "labels": NEW_JOB.labels,
    "created_at": _SUBMITTED,
    "started_at": _STARTED,
    "finished_at": _ENDED,
    "updated_at": _ENDED,
}

ROW = JobRow(**_ROW)
JOB = JobView(**_ROW, input=_INPUT, result=_RESULT)
PENDING = JobView(
    **_ROW
    | {
        "status": JobStatus.PENDING,
        "attempts": 0,
        "started_at": None,
        "finished_at": None,
        "updated_at": _SUBMITTED,
        "position": 3,
        "eta_seconds": 8,
        "waiting_for": WaitingFor.SLOT,
    },
    input=_INPUT,
    result=None,
)
PAGE = JobPage([ROW], "AAZMLchPZEAAAAAAAAAAKsaVh9XiASmC")
RUNS = RunList(
    [
        RunView(
            started_at=_STARTED,
            ended_at=_ENDED,
            worker_id="gpu-1/3f9a01bc",
            outcome=RunOutcome.COMPLETED,
            error_code=None,
            error_message=None,
            attempts=(
                ProviderAttempt(
                    provider="vllm",
                    model="qwen2.5-14b",
                    error_code="provider_unavailable",
                    error_message="The provider accepts no connections.",
                    duration_ms=12,
                ),
                ProviderAttempt(provider="anthropic", model="claude-sonnet-4-5", duration_ms=2400),
            ),
        )
    ]
)
EVENTS = f"""retry: 1000

event: status
id: 1
data: {{"job_id":"{JOB_ID}","status":"pending","at":"2026-03-01T09:30:00Z","error_code":null,"error_message":null}}

event: status
id: 2
data: {{"job_id":"{JOB_ID}","status":"running","at":"2026-03-01T09:30:01Z","error_code":null,"error_message":null}}

event: progress
id: 2.1
data: {{"job_id":"{JOB_ID}","progress":{{"done":12,"of":40}},"at":"2026-03-01T09:30:03Z"}}

: keep-alive

"""

NEW_BATCH = NewBatch(
    defaults=JobDefaults(owner_service="beeline", task_type="call_analysis", model_profile="qwen2.5-14b"),
    jobs=[
        BatchJob(owner_ref="beeline/call-4711", idempotency_key="call-4711-analysis", input=_INPUT),
        BatchJob(owner_ref="beeline/call-4712", priority="low", input=_INPUT),
    ],
)
BATCH = BatchView(
    _BATCH_ID, 1, 1, [BatchedJob(0, JOB_ID, JobStatus.COMPLETED), BatchedJob(1, _OTHER_ID, JobStatus.PENDING)]
)

WHERE = JobsWhere(owner_service="beeline", error_code=[ErrorCode.TIMEOUT, ErrorCode.BAD_RESPONSE], dry_run=True)
STEERED = SteeredView(12, 0)
ERASURE = Erasure(owner_service="beeline", owner_ref="beeline/call-4711")
ERASED = ErasedView(2, 0)

CLAIM = ClaimRequest(worker_id="render-7", task_types=["video_summary"], limit=2, lease_timeout=600, wait=20)
CLAIMED = ClaimedJobs(
    [
        ClaimedJob(
            **_ROW
            | {
                "status": JobStatus.RUNNING,
                "attempts": 0,
                "queue": None,
                "task_type": "video_summary",
                "worker_id": "render-7",
                "lease_expires_at": _LEASED_UNTIL,
                "finished_at": None,
                "updated_at": _STARTED,
            },
            input=_INPUT,
            result=None,
            lease_token=_TOKEN,
        )
    ]
)
HEARTBEAT = Heartbeat(lease_token=_TOKEN, progress=_PROGRESS)
RENEWED = Renewed(JOB_ID, _LEASED_UNTIL)
COMPLETION = Completion(lease_token=_TOKEN, result=_RESULT)
FAILED_RUN = FailedRun(
    lease_token=_TOKEN, error_code=ErrorCode.PROVIDER_UNAVAILABLE, error_message="Connection refused.", retry_after=5
)
RELEASE = Release(lease_token=_TOKEN)

_COUNTS = {"pending": 12, "running": 4, "completed": 310, "failed": 2, "cancelled": 1}
STATS = StatsView(
    as_of=_ENDED,
    jobs=StateCounts(**_COUNTS),
    by_queue=[QueueCounts(queue="gpu.llm", due=10, **_COUNTS)],
    by_task_type=[TaskTypeCounts(task_type="call_analysis", **_COUNTS)],
    by_owner=[OwnerCounts(owner_service="beeline", **_COUNTS)],
    by_error_code=[ErrorCount(ErrorCode.TIMEOUT, 2), ErrorCount(ErrorCode.CANCELLED, 1)],
    oldest_due_seconds=3.2,
    throughput=Throughput(
        last_minute=FinishedCounts(completed=21),
        last_5_minutes=FinishedCounts(completed=98, failed=1),
        last_hour=FinishedCounts(completed=310, failed=2, cancelled=1),
    ),
    wait_seconds=QuantilesView(1.4, 3.9, 5.2),
    run_seconds=QuantilesView(2.8, 6.1, 9.7),
)

_QUEUE: dict[str, Any] = {
    "name": "gpu.llm",
    "paused": False,
    "stopped": False,
    "circuit": CircuitView(
        state=CircuitState.CLOSED, reason=None, message=None, model_profile=None, opened_at=None, probe_at=None
    ),
    "pending": 12,
    "due": 10,
    "running": 4,
    "busy": 4,
    "concurrency": 8,
    "effective_limit": 6,
    "adaptive": True,
    "preempt": False,
    "reserved_share": 0.1,
    "ageing_seconds": 3600,
    "workers": 2,
    "slots": 8,
    "idle": 4,
    "broker": BrokerQueueView(ready=2, unacked=4, consumers=2),
}
_OPEN = CircuitView(
    state=CircuitState.OPEN,
    reason=ErrorCode.PROVIDER_UNAVAILABLE,
    message="The provider accepts no connections.",
    model_profile="whisper-large-v3",
    opened_at=_STARTED,
    probe_at=_ENDED,
)
_SICK = _QUEUE | {"name": "gpu.speech", "circuit": _OPEN, "running": 0, "busy": 0, "idle": 8, "broker": None}
QUEUE = QueueView(**_QUEUE)
QUEUES = QueueList([QUEUE, QueueView(**_SICK)])
PAUSED = QueueView(**_QUEUE | {"paused": True})
_STATUS: dict[str, Any] = {
    "running": True,
    "paused": False,
    "queue_size": 12,
    "current_job_id": JOB_ID,
    "current_job_ids": [JOB_ID, _OTHER_ID],
    "queues": [QUEUE],
}
QUEUE_STATUS = QueueStatusView(**_STATUS)
ALL_PAUSED = QueueStatusView(**_STATUS | {"paused": True, "queues": [PAUSED]})
ALL_STOPPED = QueueStatusView(**_STATUS | {"running": False, "queues": [QueueView(**_QUEUE | {"stopped": True})]})
WORKERS = WorkerList(
    [
        WorkerView(
            worker_id="gpu-1/3f9a01bc",
            host="gpu-1",
            queues=["gpu.llm"],
            slots_per_queue=4,
            running={"gpu.llm": 4},
            started_at=_SUBMITTED,
            seen_at=_ENDED,
        )
    ]
)

ACTIVE_PROVIDER = ActiveProvider("qwen2.5-14b", "Qwen/Qwen2.5-14B-Instruct-AWQ", configured=True, kind="vllm")
ALIVE = Liveness()
READY = ReadinessView("degraded", Components(postgres="ok", broker="down"))
METRICS = """\
# HELP aijobs_backlog_seconds Slot time that due and running jobs will take.
# TYPE aijobs_backlog_seconds gauge
aijobs_backlog_seconds{queue="gpu.llm"} 340.5
"""
UNREADY = ReadinessView("down", Components(postgres="down", broker="ok"))

PROVIDERS = ProviderList(
    [
        ProviderView(
            profile="qwen2.5-14b",
            kind=ModelKind.CHAT,
            provider="vllm",
            model="Qwen/Qwen2.5-14B-Instruct-AWQ",
            queue="gpu.llm",
            fallbacks=["claude"],
            reachable=True,
            serves_model=True,
            authorised=True,
            models=["Qwen/Qwen2.5-14B-Instruct-AWQ"],
            trouble=None,
            latency_ms=3.2,
            circuit=ProviderCircuit(state=CircuitState.CLOSED, reason=None),
            asked_at=_STARTED,
        ),
        ProviderView(
            profile="whisper-large-v3",
            kind=ModelKind.SPEECH,
            provider="openai",
            model="openai/whisper-large-v3",
            queue="gpu.speech",
            fallbacks=[],
            reachable=False,
            serves_model=None,
            authorised=None,
            models=None,
            trouble="The provider accepts no connections.",
            latency_ms=None,
            circuit=ProviderCircuit(state=CircuitState.OPEN, reason=ErrorCode.PROVIDER_UNAVAILABLE),
            asked_at=_STARTED,
        ),
    ]
)
_TARGET: dict[str, Any] = {
    "ok": True,
    "age_seconds": 1.2,
    "error": None,
    "rates_over_seconds": None,
    "gpus": [],
    "containers": [],
    "model_servers": [],
    "speech": None,
}
_GPU = GpuView(
    index=0,
    uuid="GPU-5fd4b087-86f3-7a43-b711-4771313afc50",
    name="NVIDIA L40S",
    mig_profile=None,
    utilisation_percent=87.0,
    memory_used_bytes=41_305_505_792,
    memory_total_bytes=48_305_799_168,
    temperature_celsius=63.0,
    memory_temperature_celsius=None,
    power_watts=287.4,
    xid_error=0,
)
_CONTAINER = ContainerView(
    name="vllm-qwen",
    image="vllm/vllm-openai:v0.12.0",
    service="vllm",
    cpu_cores=1.42,
    memory_working_set_bytes=9_126_805_504,
    memory_limit_bytes=34_359_738_368,
    oom_events=0,
)
_VLLM = ModelServerView(
    model="Qwen/Qwen2.5-14B-Instruct-AWQ",
    running=6.0,
    waiting=2.0,
    kv_cache_use=0.413,
    prompt_tokens_per_second=2140.6,
    generation_tokens_per_second=311.8,
    preemptions=0,
    prefix_cache_hit_rate=0.62,
)
INFRA = InfraView(
    configured=True,
    targets=[
        TargetView(name="gpu-1", kind=TargetKind.DCGM, **_TARGET | {"gpus": [_GPU]}),
        TargetView(
            name="host-1",
            kind=TargetKind.CADVISOR,
            **_TARGET | {"rates_over_seconds": 5.2, "containers": [_CONTAINER]},
        ),
        TargetView(
            name="llm",
            kind=TargetKind.VLLM,
            **_TARGET | {"rates_over_seconds": 5.2, "model_servers": [_VLLM]},
        ),
        TargetView(
            name="stt",
            kind=TargetKind.SPEECH,
            **_TARGET | {"speech": SpeechServerView(healthy=True, latency_ms=2.1, running=None, waiting=None)},
        ),
        TargetView(
            name="gpu-2",
            kind=TargetKind.NVIDIA_SMI,
            **_TARGET | {"ok": False, "age_seconds": 324.5, "error": "It accepts no connections."},
        ),
    ],
)
_FARES: dict[str, tuple[Word, dict[str, int | float | None], list[tuple[str, str]]]] = {
    "postgres": (Word.OK, {"answer_ms": 0.4}, []),
    "broker": (
        Word.OK,
        {
            "answer_ms": 0.9,
            "nodes_up": 3,
            "nodes_down": 0,
            "tickets_ready": 4,
            "tickets_unacked": 4,
            "consumers": 4,
        },
        [],
    ),
    "providers": (
        Word.DEGRADED,
        {"profiles": 2, "reachable": 1, "refusing_the_key": 0, "without_the_model": 0, "slowest_ms": 3.2},
        [("whisper-large-v3", "The provider accepts no connections.")],
    ),
    "queues": (
        Word.DEGRADED,
        {
            "queues": 2,
            "paused": 0,
            "circuits_not_closed": 1,
            "without_workers": 0,
            "workers": 4,
            "slots": 16,
            "idle": 12,
            "pending": 24,
            "due": 20,
            "running": 4,
        },
        [("gpu.speech", "Its circuit is open: provider_unavailable.")],
    ),
    "errors": (
        Word.OK,
        {
            "failed_last_minute": 0,
            "failed_last_5_minutes": 2,
            "failed_last_hour": 7,
            "failed_share_last_5_minutes": 0.0041,
        },
        [],
    ),
    "throughput": (
        Word.OK,
        {
            "completed_last_minute": 104,
            "completed_last_5_minutes": 486,
            "completed_last_hour": 5512,
            "oldest_due_seconds": 11.4,
            "wait_p95_seconds": 9.8,
            "run_p95_seconds": 4.1,
        },
        [],
    ),
    "infra": (
        Word.DEGRADED,
        {
            "targets": 5,
            "answering": 4,
            "gpus": 1,
            "gpu_utilisation_percent": 87.0,
            "gpu_memory_used_bytes": 41_305_505_792,
            "gpu_memory_total_bytes": 48_305_799_168,
            "requests_running": 6.0,
            "requests_waiting": 2.0,
        },
        [("gpu-2", "It accepts no connections.")],
    ),
}
HEALTH_DETAIL = HealthDetail(
    Word.DEGRADED,
    ComponentsView(
        **{
            name: ComponentView(word, figures, [FindingView(*finding) for finding in findings])
            for name, (word, figures, findings) in _FARES.items()
        }
    ),
)
QUESTION = ChatRequestBody(
    messages=[Message("system", "Answer in one sentence."), Message("user", "What does the caller ask for?")],
    max_tokens=200,
    timeout=60,
    owner_service="beeline",
)
CHAT = ChatView(
    job_id=JOB_ID,
    content="The caller asks for a refund.",
    model="qwen2.5-14b",
    provider="vllm",
    usage=Usage(prompt_tokens=31, completion_tokens=7, total_tokens=38),
    finish_reason="stop",
    duration_ms=840,
)
CHAT_EVENTS = (
    'event: token\ndata: {"offset":0,"text":"The caller asks"}\n\n'
    'event: token\ndata: {"offset":15,"text":" for a refund."}\n\n'
    f"event: done\ndata: {json.encode(CHAT).decode()}\n\n"
)
QUEUED = QueuedView(job_id=JOB_ID, position=3)
QUEUED_JOB = QueuedJobView(
    job_id=JOB_ID, status=JobStatus.COMPLETED, position=None, result=_RESULT, error=None, error_code=None
)
WITHDRAWN = WithdrawnView(job_id=JOB_ID, status=JobStatus.CANCELLED)


def _chat_problem(status: int, code: ErrorCode, detail: str, *, refused: bool = False) -> ProblemDetails:
    return ProblemDetails(
        type=f"urn:problem:ai-service:{'chat-refused' if refused else 'chat-failed'}",
        title="The chat cannot be answered now" if refused else "The chat has no answer",
        status=status,
        detail=detail,
        instance="/chat",
        error_code=code,
        job_id=JOB_ID,
    )


RATE_LIMITED_CHAT = _chat_problem(429, ErrorCode.RATE_LIMITED, "The provider's rate limit is reached.")
FAILED_CHAT = _chat_problem(502, ErrorCode.PROVIDER_UNAVAILABLE, "The provider accepts no connections.")
REFUSED_CHAT = _chat_problem(
    503,
    ErrorCode.PROVIDER_UNAVAILABLE,
    "The model server is sick, and nothing is started until it is well again.",
    refused=True,
)
LATE_CHAT = _chat_problem(504, ErrorCode.TIMEOUT, "It was not answered within its caller's time.")

UPLOAD = UploadView(UUID("01981a52-1b00-7d3e-8c2f-1b3a5e6f7082"), 1_843_244)
UPLOAD_DETAILS = UploadDetails(UPLOAD.upload_id, UPLOAD.bytes, _SUBMITTED)
