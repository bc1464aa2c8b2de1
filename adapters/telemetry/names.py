"""Names of attributes of spans, all in one place: OpenTelemetry's for generative AI are still in development.

https://opentelemetry.io/docs/specs/semconv/gen-ai/. Content (`gen_ai.input.messages` and the like) is never among them.
"""

from __future__ import annotations

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
"""Seconds."""
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

ERROR_TYPE = "error.type"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"
METHOD, ROUTE, STATUS_CODE = "http.request.method", "http.route", "http.response.status_code"

ROLE = "aijobs.role"
"""Of the process."""

JOB_ID, BATCH_ID = "aijobs.job.id", "aijobs.batch.id"
JOBS = "aijobs.jobs"
"""How many."""
TASK_TYPE, OWNER, QUEUE = "aijobs.task_type", "aijobs.owner", "aijobs.queue"
PROFILE, PRIORITY, ATTEMPT = "aijobs.profile", "aijobs.priority", "aijobs.attempt"
OUTCOME, STATUS = "aijobs.run.outcome", "aijobs.job.status"
AUDIO_SECONDS = "aijobs.audio.seconds"
