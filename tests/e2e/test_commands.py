from __future__ import annotations

import re

from tests.e2e.conftest import Install
from tests.servers.model_server import ModelServer

PASSWORD = "do-not-tell"


def test_the_demonstration_ends_as_planned(install: Install) -> None:
    installation = install()
    code, said = installation.run("demo", within=20)
    assert code == 0
    assert "All as planned" in said
    assert list(installation.folder.iterdir()) == [installation.processes[0].log], "it leaves nothing behind"


def test_the_doctor_finds_everything_well(install: Install, database: str, vhost: str, model: ModelServer) -> None:
    installation = install(
        DATABASE_URL=database,
        AMQP_URL=vhost,
        LLM_BASE_URL=model.base_url,
        LLM_API_KEY=PASSWORD,
        AI_SERVICE_TOKEN=PASSWORD,
    )
    code, said = installation.run("doctor")
    assert code == 0
    assert said.count(" ok ") == 4
    assert PASSWORD not in said
    password_of_postgresql = re.search(r":([^:@]+)@", database)
    assert password_of_postgresql
    assert password_of_postgresql[1] not in said


def test_the_doctor_finds_every_trouble_and_tells_no_secret(install: Install, empty_database: str) -> None:
    installation = install(
        DATABASE_URL=empty_database,
        AMQP_URL=f"amqp://user:{PASSWORD}@127.0.0.1:1/",
        LLM_BASE_URL="http://127.0.0.1:1/v1",
        LLM_API_KEY=PASSWORD,
    )
    code, said = installation.run("doctor")
    assert code == 1
    assert said.count("trouble") == 3
    assert "ai-service migrate" in said
    assert PASSWORD not in said

    code, said = installation.run("doctor", DATABASE_URL=f"postgresql://user:{PASSWORD}@127.0.0.1:1/nothing")
    assert code == 1
    assert "127.0.0.1:1/nothing" in said
    assert PASSWORD not in said


def test_three_processes_that_start_at_once_migrate_an_empty_database_once(
    install: Install, empty_database: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=empty_database, LLM_BASE_URL=model.base_url, LOG_LEVEL="info")
    migrations = [installation.start("migrate") for _ in range(2)]
    api, _ = installation.serve_and_work()

    assert [migration.exit_code() for migration in migrations] == [0, 0]
    assert api.finished(api.submit())["status"] == "completed"
    assert sum(process.said.count("database migrated") for process in installation.processes) == 1
