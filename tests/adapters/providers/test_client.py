"""Whom a client trusts, tried on servers with certificates of their own."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from adapters.providers.client import open_client, tls
from domain.errors import ErrorCode, Failure, StartupError
from tests.adapters.providers.chats import KINDS, a_provider, ask, failure
from tests.servers.dialects import SAYS
from tests.servers.model_server import ModelServer


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def good(authority: trustme.CA) -> Iterator[ModelServer]:
    with served(authority.issue_cert("127.0.0.1")) as server:
        yield server


def served(certificate: trustme.LeafCert) -> ModelServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return ModelServer(tls=context)


async def outcome(server: ModelServer, verify: ssl.SSLContext | bool) -> Failure:
    async with open_client(verify=verify) as client:
        return await failure(a_provider("openai", client, server.base_url))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_whose_authority_is_in_the_bundle_is_trusted(good: ModelServer, bundle: Path, kind: str) -> None:
    good.script(SAYS[kind]("Hi"))
    async with open_client(verify=tls(True, bundle)) as client:
        assert (await ask(a_provider(kind, client, good.base_url))).content == "Hi"


async def test_without_the_bundle_it_is_not(good: ModelServer) -> None:
    assert await outcome(good, tls(True, None)) == Failure(
        ErrorCode.PROVIDER_UNAVAILABLE,
        "The provider's certificate is signed by an authority that is not known here: name it in the CA bundle.",
    )
    assert good.calls == 0


async def test_another_authority_s_bundle_does_not_help(good: ModelServer, tmp_path: Path) -> None:
    path = tmp_path / "others.pem"
    trustme.CA().cert_pem.write_to_path(path)
    assert (await outcome(good, tls(True, path))).code is ErrorCode.PROVIDER_UNAVAILABLE


@pytest.mark.parametrize("name", ["127.0.0.1", "elsewhere.example"])
async def test_who_does_not_verify_trusts_anybody(authority: trustme.CA, name: str, tmp_path: Path) -> None:
    with served(authority.issue_cert(name)) as server:
        async with open_client(verify=tls(False, tmp_path / "none.pem")) as client:
            assert (await ask(a_provider("openai", client, server.base_url))).content == "The answer."


@pytest.mark.parametrize("name", ["elsewhere.example", "127.0.0.2"])
async def test_a_certificate_for_another_is_refused(authority: trustme.CA, bundle: Path, name: str) -> None:
    with served(authority.issue_cert(name)) as server:
        failed = await outcome(server, tls(True, bundle))
    assert failed.code is ErrorCode.PROVIDER_UNAVAILABLE
    assert failed.message in (
        "The provider's certificate is for another address.",
        "The provider's certificate is for another host name.",
    )


async def test_a_certificate_that_has_expired_is_refused(authority: trustme.CA, bundle: Path) -> None:
    with served(authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))) as server:
        assert await outcome(server, tls(True, bundle)) == Failure(
            ErrorCode.PROVIDER_UNAVAILABLE, "The provider's certificate has expired."
        )


def test_without_a_bundle_the_well_known_authorities_are_trusted() -> None:
    assert tls(True, None) is True
    assert tls(False, None) is False


def test_a_bundle_is_all_that_is_trusted(bundle: Path) -> None:
    context = tls(True, bundle)
    assert isinstance(context, ssl.SSLContext)
    assert context.cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (None, "No such file or directory"),
        (b"", "holds no certificates in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", "holds no certificates in PEM"),
        (b"\x00\xff" * 100, "holds no certificates in PEM"),
    ],
    ids=["missing", "empty", "broken", "binary"],
)
def test_a_bundle_that_is_none_is_named_with_its_trouble(tmp_path: Path, content: bytes | None, trouble: str) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartupError, match=f"The CA bundle .*bundle.pem cannot be used: {trouble}"):
        tls(True, path)


def test_a_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be used"):
        tls(True, tmp_path)
