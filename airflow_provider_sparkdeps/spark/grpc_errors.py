"""What a failed call to a Spark Connect server means, in a sentence."""

from __future__ import annotations

import os
from dataclasses import dataclass

import grpc

from airflow_provider_sparkdeps.spark.endpoint import Endpoint


@dataclass(frozen=True)
class _Fault:
    """A cause of UNAVAILABLE, which gRPC tells in its text only.

    :param signs: the words of gRPC and BoringSSL, any of them.
    :param passes: whether it can go away by itself.
    :param answered: whether there was somebody to answer.
    """

    signs: tuple[str, ...]
    cause: str
    passes: bool
    answered: bool = True


# The first match counts. {closes} and {details} are filled in by `cause`.
_FAULTS = (
    _Fault(
        ("certificate has expired",),
        "its certificate has expired: have the server's certificate renewed",
        passes=False,
    ),
    _Fault(
        ("certificate is not yet valid",),
        "its certificate is not valid yet: check the clocks of the server and of this worker",
        passes=False,
    ),
    _Fault(
        ("issuer certificate", "self signed", "self-signed"),
        "its certificate is signed by an authority that is not trusted here: give that authority's certificate in "
        "the field ca_certificate",
        passes=False,
    ),
    _Fault(("CERTIFICATE_VERIFY_FAILED",), "its certificate is not accepted here: {details}", passes=False),
    _Fault(
        ("Hostname Verification", "Peer name"),
        "its certificate is for another host name: use a name that is in the certificate as the host",
        passes=False,
    ),
    _Fault(
        ("ALPN",),
        "it speaks TLS without HTTP/2, which gRPC needs: switch HTTP/2 (ALPN h2) on in the proxy that stands there, "
        "or mend the port",
        passes=False,
    ),
    _Fault(
        ("WRONG_VERSION_NUMBER",),
        "it does not speak TLS on this port: switch TLS off, or use its TLS port",
        passes=False,
    ),
    _Fault(
        ("ALERT_PROTOCOL_VERSION",),
        "it has no TLS version in common with gRPC: let it offer TLS 1.2 or 1.3",
        passes=False,
    ),
    # "Unwrap failed" is an alert in TLS 1.3, where the client's certificate comes after the handshake.
    _Fault(("_ALERT_", "Unwrap failed"), "it refuses the TLS handshake: {closes}", passes=False),
    _Fault(
        ("timed out", "handshaker shutdown", "Endpoint closing", "No route to host", "Network is unreachable"),
        "no answer from that address: check host, port and firewall",
        passes=True,
        answered=False,
    ),
    _Fault(("Handshake read failed",), "it breaks off the TLS handshake: {closes}", passes=True),
    _Fault(
        ("Domain name not found", "DNS resolution failed", "errors resolving", "Name or service not known"),
        "the host name can't be resolved: check its spelling, and the DNS of this worker",
        passes=True,
        answered=False,
    ),
    _Fault(
        ("Connection refused",),
        "nothing listens there: start the server (sbin/start-connect-server.sh), or mend host and port",
        passes=True,
        answered=False,
    ),
    _Fault(
        ("HTTP proxy",),
        "the proxy in between does not let the connection through ({details})",
        passes=True,
    ),
    _Fault(
        ("http1.x", "Failed parsing HTTP/2"),
        "something answers there, but it does not speak gRPC: is this the Spark Connect port (15002 by default)?",
        passes=False,
    ),
    _Fault(("Socket closed", "Connection reset", "Broken pipe"), "it closes the connection: {closes}", passes=True),
)
# Those that gRPC looks at, in its order.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")


def is_transient(error: grpc.RpcError) -> bool:
    """Whether the fault can go away by itself: nobody listens yet, or the network had a hiccup."""
    fault = _fault(error)
    return _code(error) is grpc.StatusCode.UNAVAILABLE and (fault is None or fault.passes)


def more_specific(earlier: grpc.RpcError | None, later: grpc.RpcError) -> grpc.RpcError:
    """Return the error of two attempts that is to be explained.

    A name may have several addresses (::1 and 127.0.0.1), and gRPC tells only of the one that failed last.
    """
    before, now = earlier and _fault(earlier), _fault(later)
    return earlier if earlier and before and before.answered and now and not now.answered else later


def explain(error: grpc.RpcError, endpoint: Endpoint) -> str:
    """Return the fault, its cause and the mend, in one sentence without credentials."""
    return f"Can't open a Spark Connect session at {endpoint.target}: {cause(error, endpoint)}"


def cause(error: grpc.RpcError, endpoint: Endpoint) -> str:
    """Return the cause and the mend, as the second half of a sentence without credentials."""
    code = _code(error)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        if endpoint.token:
            return "the server refuses the bearer token: mend the connection's password"
        return "the server asks for a bearer token: put it into the connection's password"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "a server answers there, but it is no Spark Connect server (4.0 or later): check host and port"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            f"no answer within the connection's request timeout ({endpoint.request_timeout:g} s): check host, port "
            f"and firewall, or raise the timeout if the server is only slow{_proxy_hint(endpoint)}"
        )
    details = reason(error)
    if fault := _fault(error):
        hint = _proxy_hint(endpoint) if fault.passes else ""
        return fault.cause.format(closes=_why_it_closes(endpoint), details=details) + hint
    return f"the server answered {code.name}: {details}"


def reason(error: grpc.RpcError) -> str:
    """Return what gRPC itself says of an error, in a line."""
    return _details(error).partition("\n")[0].rpartition("last error: ")[2] or "without a reason"


def _fault(error: grpc.RpcError) -> _Fault | None:
    details = _details(error)
    return next((fault for fault in _FAULTS if any(sign in details for sign in fault.signs)), None)


def _why_it_closes(endpoint: Endpoint) -> str:
    # Since TLS 1.3 a server judges the client's certificate when the client has ended its handshake; gRPC mostly tells
    # of a closed socket then.
    if not endpoint.secure:
        return "does it want TLS, or is it no Spark Connect server?"
    if endpoint.client_certificate:
        return "it may not trust the authority of client_certificate: give one that it trusts, or check the port"
    return "it may ask for a client certificate: fill in client_certificate and client_key, or check the port"


def _proxy_hint(endpoint: Endpoint) -> str:
    variable = next((name for name in _PROXY_VARIABLES if os.getenv(name)), None)
    if variable is None or endpoint.is_loopback:
        return ""
    return f" (${variable} is set: if that proxy is not the way to this server, name the host in $no_proxy)"


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    # gRPC's errors are calls, too, which their type does not say.
    code = getattr(error, "code", lambda: None)()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _details(error: grpc.RpcError) -> str:
    return str(getattr(error, "details", lambda: None)() or "")
