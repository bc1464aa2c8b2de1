"""What the HTTP API is made of: the use cases that its controllers call."""

from __future__ import annotations

from dataclasses import dataclass

from app.claims import Claims
from app.converse import Chats
from app.follow import Follow
from app.watch import Watch
from domain.usecases.browse import Browse
from domain.usecases.diagnose import Diagnose
from domain.usecases.infra import Infra
from domain.usecases.lend import Lend
from domain.usecases.operate import Operate
from domain.usecases.outlook import Foresee
from domain.usecases.providers import Providers
from domain.usecases.report import Report
from domain.usecases.steer import Steer
from domain.usecases.submit import Submit
from domain.usecases.upload import Uploads


@dataclass(frozen=True)
class Services:
    submit: Submit
    uploads: Uploads
    browse: Browse
    foresee: Foresee
    steer: Steer
    lend: Lend
    claims: Claims
    operate: Operate
    report: Report
    follow: Follow
    chats: Chats
    watch: Watch
    providers: Providers
    infra: Infra
    diagnose: Diagnose
