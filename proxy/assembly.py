"""From settings to what answers calls: the parts of a worker, put together. It decides nothing about a call.

`assemble` runs at a worker's start and at each SIGHUP, which puts a new pipeline in the old one's place.
"""

from __future__ import annotations

import itertools
import os
import ssl
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, TypeAlias
from urllib.parse import urlsplit

from cryptography.x509 import Certificate, load_pem_x509_certificates

from audit.commit import AuditLog, LogPlace
from audit.instance import Instance
from audit.record import IdentityProof
from proxy import authority
from proxy.authorization import PolicyAuthoriser
from proxy.backends.aws.backend import AwsBackend
from proxy.backends.aws.credentials import AssumedRoles, CredentialSource, OwnCredentials, session_maker
from proxy.backends.aws.passing import Passer
from proxy.backends.aws.pool import Pool
from proxy.backends.aws.resigning import Resigner
from proxy.backends.aws.resolver import NameserverResolver, Resolver, StaticResolver, SystemResolver
from proxy.backends.aws.transport import Endpoint, Transport
from proxy.backends.base import Backend
from proxy.backends.local.backend import LocalBackend
from proxy.backends.local.last_uses import LastUses
from proxy.backends.local.xks.client import XksClient
from proxy.backends.local.xks.elsewhere import Elsewhere
from proxy.callers import Callers
from proxy.claims import ClaimReader, read_access_keys
from proxy.clock import Clock, clock_of
from proxy.dialect import KmsDialect
from proxy.domain import KmsCall, Principal, RawRequest
from proxy.errors import SetupError
from proxy.forwarded import TrustedNetworks
from proxy.kms.hosts import endpoint_host
from proxy.kms.model import ServiceModel
from proxy.limits import CallerRates
from proxy.maintenance import Maintenance
from proxy.metrics import Counts
from proxy.permissions import Permissions
from proxy.pipeline import Authenticator, Authorise, ClientOf, Pipeline
from proxy.policy.access import AuthorizationRequest
from proxy.policy.evaluate import load, refusal
from proxy.policy.folder import read_folder
from proxy.privacy_keys import PrivacyKeys, privacy_keys
from proxy.recording import Recorder
from proxy.sealed_store import SealedStore
from proxy.settings import Settings
from proxy.sigv4 import HOST_SIGNED, Verifier
from proxy.sts.dialect import StsDialect, is_for_sts
from proxy.sts.service import StsService

Close: TypeAlias = Callable[[], Awaitable[None]]
_XKS_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Parts:
    """What stays the same as long as a worker lives."""

    instance: Instance
    log: AuditLog
    store: SealedStore
    model: ServiceModel
    counts: Counts
    new_id: Callable[[], str]
    own_addresses: frozenset[tuple[str, int]]  # where this instance listens: never an upstream
    uses: LastUses = field(default_factory=LastUses)
    learnt: OrderedDict[str, Principal] = field(default_factory=OrderedDict)  # whose an access key is, by what AWS said


@dataclass(frozen=True, slots=True)
class Assembly:
    """A pipeline, how what is behind it is closed, and what is to be done beside calls."""

    pipeline: Pipeline
    close: Close
    maintenance: Maintenance | None  # of the embedded KMS
    privacy: PrivacyKeys | None  # of encryption contexts


def assemble(settings: Settings, parts: Parts) -> Assembly:
    """The pipeline that `settings` ask for. Raises SetupError where it cannot be. Called inside a running event loop."""
    privacy = privacy_keys(settings.context_privacy, parts.instance, os.urandom)
    try:
        return _assembled(settings, parts, privacy)
    except BaseException:
        if privacy is not None:
            privacy.close()
        raise


def _assembled(settings: Settings, parts: Parts, privacy: PrivacyKeys | None) -> Assembly:
    clock = clock_of(settings.clock)
    clock_us = None if settings.clock is None else lambda: int(clock() * 1_000_000)  # by which sessions end
    callers = Callers(parts.store, clock, os.urandom)
    verifier: Authenticator = Verifier(callers.find, clock_us=clock_us)
    sts: StsService | None = None
    proof = IdentityProof.SIGNATURE
    authorise, client_of = guardrails_of(settings, parts.instance.account_id), client_of_headers(settings)
    # What has something to close comes last: until here there is nothing to undo.
    if settings.backend == "local":
        sts = StsService(parts.store, callers, clock, os.urandom)
        backend, close = _local(settings, parts, clock, sts)
    elif settings.aws_signing == "re-sign":
        backend, close = _re_signing(settings, parts)
    else:
        known = read_access_keys(settings.access_keys) if settings.access_keys is not None else {}
        claims = ClaimReader(known, parts.learnt)
        verifier, proof = claims, IdentityProof.CLAIMED
        backend, close = _passing_through(settings, parts, claims)
    # Each worker has a share of what a caller may do.
    per_worker = settings.calls_per_caller_s / settings.workers
    may_call = CallerRates(per_worker, 2 * per_worker).take if per_worker else None
    recording = partial(
        Recorder,
        parts.instance.account_id,
        parts.instance.region,
        backend.name,
        settings.grant_tokens,
        parts.new_id,
        privacy=None if privacy is None else privacy.privacy,
    )
    pipeline_of = partial(
        Pipeline,
        log=parts.log,
        origin=parts.instance.origin(parts.log.name),
        now_us=_now_us,
        new_id=parts.new_id,
        client_of=client_of,
        may_call=may_call,
        observe=parts.counts.observe,
        calls_at_once=settings.calls_at_once,
    )
    beside = None
    if sts is not None:
        beside = pipeline_of(
            verifier=Verifier(callers.find, service="sts", must_sign=HOST_SIGNED, clock_us=clock_us),
            dialect=StsDialect.load(),
            backend=sts,
            authorise=authorise,
            recorder=recording(event_source="sts.amazonaws.com", resource_type="AWS::IAM::Role", has_accounts=True),
        )
    recorder = recording(has_accounts=settings.backend == "local")
    pipeline = pipeline_of(
        verifier=verifier,
        proof=proof,
        dialect=KmsDialect(parts.model, forwards=backend.forwards),
        backend=backend,
        recorder=recorder,
        authorise=authorise,
        note=parts.uses.note if settings.backend == "local" else None,
        confide=privacy.confide if privacy is not None and privacy.encrypts else None,
        beside=beside,
        is_for_beside=is_for_sts,
    )
    maintenance = None
    if isinstance(backend, LocalBackend):
        maintenance = Maintenance(backend, recorder, parts.log, _now_us, clock, parts.instance.maintenance)

    async def close_all() -> None:
        await close()
        if privacy is not None:
            privacy.close()

    return Assembly(pipeline, close_all, maintenance, privacy)


def _now_us() -> int:
    return time.time_ns() // 1_000


def guardrails_of(settings: Settings, account_id: str) -> Authorise | None:
    """The guardrails of the folder `policies`, where there is one."""
    if settings.policies is None:
        return None
    guardrails = load(read_folder(settings.policies))
    is_theirs = settings.backend == "local" or settings.aws_signing == "pass-through"  # a key id that names no account

    def authorise(call: KmsCall, source_ip: str) -> None:
        if guardrails.concerns(call.operation.name):
            request = AuthorizationRequest.of(call, (is_theirs and call.principal.account_id) or account_id, source_ip)
            decision = guardrails.decide(request)
            if not decision.allowed:
                raise refusal(request, decision)

    return authorise


def client_of_headers(settings: Settings) -> ClientOf | None:
    """The client's address by X-Forwarded-For, where trusted networks are set."""
    if not settings.trusted_networks:
        return None
    trusted = TrustedNetworks(settings.trusted_networks)

    def client_of(raw: RawRequest) -> str | None:
        told = [value for name, value in raw.headers if name == b"x-forwarded-for"]
        return trusted.client_of(raw.origin.claimed_peer or raw.origin.peer, told)

    return client_of


def _local(settings: Settings, parts: Parts, clock: Clock, sts: StsService) -> tuple[Backend, Close]:
    roots = _attestation_roots(settings)
    authoriser = PolicyAuthoriser(Permissions(parts.store), clock, settings.grant_delay_s)
    # What is signed for a proxy outside is signed at the real time.
    xks = XksClient(_xks_transport(settings, parts), time.time, settings.xks_timeout_s)
    local = LocalBackend(parts.store, clock, os.urandom, authoriser, attestation_roots=roots, xks=xks, uses=parts.uses)

    async def close() -> None:
        local.close()
        sts.close()
        await xks.close()

    return local, close


def _attestation_roots(settings: Settings) -> tuple[Certificate, ...]:
    if settings.attestation_root is None:
        return ()
    try:
        return tuple(load_pem_x509_certificates(settings.attestation_root.read_bytes()))
    except (OSError, ValueError) as error:
        raise SetupError(f"attestation_root: {settings.attestation_root} cannot be read as certificates: {error}") from error


def _xks_transport(settings: Settings, parts: Parts) -> Callable[[], Transport]:
    """How the way to external key store proxies is made, once one is asked. Raises SetupError at once."""
    tls = _client_tls("xks_ca_bundle", settings.xks_ca_bundle)
    resolver: Resolver = Elsewhere(SystemResolver())
    if settings.xks_hosts:
        resolver = StaticResolver(dict(entry.partition("=")[::2] for entry in settings.xks_hosts), resolver)
    return lambda: Pool(
        resolver,
        tls=tls,
        connections=_XKS_CONNECTIONS,
        connect_timeout_s=settings.xks_timeout_s,
        read_timeout_s=settings.xks_timeout_s,
        own_addresses=parts.own_addresses,
    )


def _client_tls(setting: str, bundle: Path | None) -> ssl.SSLContext:
    """The system's certificates are trusted, and those of `bundle`. Raises SetupError."""
    tls = ssl.create_default_context()
    if bundle is not None:
        try:
            tls.load_verify_locations(bundle)
        except (OSError, ssl.SSLError) as error:
            raise SetupError(f"{setting}: {bundle} cannot be read as certificates: {error}") from error
    return tls


def _passing_through(settings: Settings, parts: Parts, claims: ClaimReader) -> tuple[Backend, Close]:
    passer = Passer(parts.instance.account_id, claims.learn)
    backend = AwsBackend(_transport(settings, parts), passer, settings.aws_call_timeout_s, parts.counts.upstream_failed)
    return backend, backend.close


def _re_signing(settings: Settings, parts: Parts) -> tuple[Backend, Close]:
    account_id = parts.instance.account_id
    transport, trusted = _transport(settings, parts), _trusted(settings)
    make_session = session_maker(
        parts.instance.region,
        egress_proxy=settings.aws_egress_proxy.get_secret_value(),
        ca_bundle=None if trusted is None else Path(f"/proc/self/fd/{trusted.fileno()}"),
    )
    credentials: CredentialSource = OwnCredentials(make_session, time.time)
    if settings.aws_role:
        credentials = AssumedRoles(
            credentials,
            make_session,
            settings.aws_role,
            account_id,
            duration_s=settings.aws_role_session_s,
            source_identity=settings.aws_role_source_identity,
            now_s=time.time,
        )
    resigner = Resigner(credentials, _endpoints(settings), account_id, time.time)
    backend = AwsBackend(transport, resigner, settings.aws_call_timeout_s, parts.counts.upstream_failed)

    async def close() -> None:
        await backend.close()
        await credentials.close()
        if trusted is not None:
            trusted.close()

    return backend, close


def _trusted(settings: Settings) -> IO[bytes] | None:
    """A file, in memory, of the certificates that are trusted upstream, for botocore, which takes one file: the system's and
    those of aws_ca_bundle. None where the system's are all."""
    if settings.aws_ca_bundle is None:
        return None
    file = os.fdopen(os.memfd_create("trusted"), "wb", buffering=0)
    file.write(authority.bundle(settings.aws_ca_bundle, authority.system_bundles()))
    return file


def _transport(settings: Settings, parts: Parts) -> Transport:
    """The way to AWS: through a proxy, or direct."""
    tls = _client_tls("aws_ca_bundle", settings.aws_ca_bundle)
    if egress := settings.aws_egress_proxy.get_secret_value():
        from proxy.backends.aws.egress import Egress  # here: aiohttp's client takes long to import

        return Egress(
            egress,
            tls=tls,
            connections=settings.aws_connections,
            connect_timeout_s=settings.aws_connect_timeout_s,
            read_timeout_s=settings.aws_read_timeout_s,
        )
    resolver: Resolver = NameserverResolver(settings.aws_nameservers) if settings.aws_nameservers else SystemResolver()
    if settings.aws_hosts:
        resolver = StaticResolver(dict(entry.partition("=")[::2] for entry in settings.aws_hosts), resolver)
    return Pool(
        resolver,
        tls=tls,
        connections=settings.aws_connections,
        connect_timeout_s=settings.aws_connect_timeout_s,
        read_timeout_s=settings.aws_read_timeout_s,
        own_addresses=parts.own_addresses,
    )


def _endpoints(settings: Settings) -> Callable[[str], Endpoint]:
    """The endpoint of each region."""

    @lru_cache(maxsize=128)
    def endpoint_of(region: str) -> Endpoint:
        if not settings.aws_endpoint:
            return Endpoint(endpoint_host(region, fips=settings.aws_fips, dual_stack=settings.aws_dual_stack), 443)
        parts = urlsplit(settings.aws_endpoint.replace("{region}", region))
        tls = parts.scheme == "https"
        return Endpoint(parts.hostname or "", parts.port or (443 if tls else 80), tls)

    return endpoint_of


def log_place(instance: Instance, settings: Settings, log: str, *, syncing: bool = True) -> LogPlace:
    """Where the log `log` of `instance` is, with the settings for its segments."""
    return LogPlace(
        instance.log_folder(log),
        instance.checkpoint_folder(log),
        instance.region,
        instance.account_id,
        settings.segment_max_bytes,
        settings.segment_max_age_s,
        syncing,
    )


def make_ids(random: Callable[[int], bytes]) -> Callable[[], str]:
    """A source of ids in the form of UUIDs (version 8): ten random bytes of this source, and a count. Unique, and no secret."""
    prefix = random(10).hex()
    head = f"{prefix[:8]}-{prefix[8:12]}-8{prefix[12:15]}-a{prefix[15:18]}-"
    count = itertools.count()
    return lambda: f"{head}{next(count):012x}"
