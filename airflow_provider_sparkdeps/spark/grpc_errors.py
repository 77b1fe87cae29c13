"""Explains failed calls to a Spark Connect server: the cause and what to do."""

from __future__ import annotations

import os
from dataclasses import dataclass

import grpc

from airflow_provider_sparkdeps.exceptions import ConnectError
from airflow_provider_sparkdeps.spark.endpoint import Endpoint


@dataclass(frozen=True)
class _Fault:
    """A cause of UNAVAILABLE, which gRPC reports only in the error's text.

    :param signs: parts of messages of gRPC and BoringSSL; any of them identifies the fault.
    :param cause: may contain `{details}`.
    :param fix: may contain `{closed}`.
    :param is_transient: whether a retry may succeed.
    :param answered: whether anything responded at the address.
    """

    signs: tuple[str, ...]
    cause: str
    fix: str
    is_transient: bool = False
    answered: bool = True


# The first match counts. {closed} and {details} are filled in by `describe`.
_FAULTS = (
    _Fault(("certificate has expired",), "its certificate has expired", "Renew the server's certificate."),
    _Fault(
        ("certificate is not yet valid",),
        "its certificate is not valid yet",
        "Check the clocks of the server and of this worker.",
    ),
    _Fault(
        ("issuer certificate", "self signed", "self-signed"),
        "its certificate was issued by an authority that is not trusted here",
        "Set the authority's certificate in ca_certificate.",
    ),
    _Fault(
        ("CERTIFICATE_VERIFY_FAILED",),
        "its certificate was rejected here ({details})",
        "Check the server's certificate and ca_certificate.",
    ),
    _Fault(
        ("Hostname Verification", "Peer name"),
        "its certificate is for another host name",
        "Use a host name that is in the certificate.",
    ),
    _Fault(
        ("ALPN",),
        "it offers TLS without HTTP/2, which gRPC requires",
        "Enable HTTP/2 (ALPN h2) in the proxy at that address, or correct the port.",
    ),
    _Fault(("WRONG_VERSION_NUMBER",), "it does not use TLS on this port", "Disable TLS, or use the server's TLS port."),
    _Fault(
        ("ALERT_PROTOCOL_VERSION",), "it has no TLS version in common with gRPC", "Enable TLS 1.2 or 1.3 on the server."
    ),
    # "Unwrap failed" is an alert in TLS 1.3, where the client's certificate comes after the handshake.
    _Fault(("_ALERT_", "Unwrap failed"), "it rejected the TLS handshake", "{closed}"),
    _Fault(
        ("timed out", "handshaker shutdown", "Endpoint closing", "No route to host", "Network is unreachable"),
        "no response from that address",
        "Check the host, port and firewall.",
        is_transient=True,
        answered=False,
    ),
    _Fault(("Handshake read failed",), "it aborted the TLS handshake", "{closed}", is_transient=True),
    _Fault(
        ("Domain name not found", "DNS resolution failed", "errors resolving", "Name or service not known"),
        "the host name could not be resolved",
        "Check its spelling and the DNS settings of this worker.",
        is_transient=True,
        answered=False,
    ),
    _Fault(
        ("Connection refused",),
        "no server is listening there",
        "Start the server (sbin/start-connect-server.sh), or correct the host and port.",
        is_transient=True,
        answered=False,
    ),
    _Fault(
        ("HTTP proxy",),
        "the proxy did not allow the connection ({details})",
        "Check the proxy settings.",
        is_transient=True,
    ),
    _Fault(
        ("http1.x", "Failed parsing HTTP/2"),
        "the server there does not speak gRPC",
        "Check that this is the Spark Connect port (15002 by default).",
    ),
    _Fault(
        ("Socket closed", "Connection reset", "Broken pipe"), "it closed the connection", "{closed}", is_transient=True
    ),
)
# The variables that gRPC reads, in its order.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")


def is_transient(error: grpc.RpcError) -> bool:
    """Return whether a retry may succeed: the server does not listen yet, or the network failed for a moment."""
    fault = _fault(error)
    return _code(error) is grpc.StatusCode.UNAVAILABLE and (fault is None or fault.is_transient)


def is_session_gone(error: BaseException) -> bool:
    """Return whether a server's response says that it does not have the session."""
    return "INVALID_HANDLE.SESSION_" in str(error)


def more_specific(earlier: grpc.RpcError | None, later: grpc.RpcError) -> grpc.RpcError:
    """Return the error of two attempts that explains more.

    A name may have several addresses (::1 and 127.0.0.1), and gRPC reports only the one that failed last.
    """
    before, now = earlier and _fault(earlier), _fault(later)
    return earlier if earlier and before and before.answered and now and not now.answered else later


def connect_error(error: grpc.RpcError, endpoint: Endpoint) -> ConnectError:
    """Return the exception for a server that could not be used; its message has no credentials."""
    return ConnectError(f"Could not open a Spark Connect session at {endpoint.target}: {describe(error, endpoint)}")


def describe(error: grpc.RpcError, endpoint: Endpoint) -> str:
    """Return the cause of a failed call and what to do, to follow a colon; without credentials."""
    code = _code(error)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        if endpoint.token:
            return "the server rejected the bearer token. Update the password of the connection."
        return "the server requires a bearer token. Set it as the password of the connection."
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "the server there is not a Spark Connect server (4.0 or later). Check the host and port."
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            f"no response within the connection's request timeout ({endpoint.request_timeout:g} s). Check the host, "
            f"port and firewall, or increase the timeout if the server is slow.{_proxy_hint(endpoint)}"
        )
    details = grpc_details(error)
    if fault := _fault(error):
        hint = _proxy_hint(endpoint) if fault.is_transient else ""
        text = f"{fault.cause}. {fault.fix}".format(closed=_closed_hint(endpoint), details=details)
        return text + hint
    return f"the server responded with {code.name}: {details.rstrip('.')}. Check the server's log."


def grpc_details(error: grpc.RpcError) -> str:
    """Return gRPC's own message of an error, in one line."""
    return _details(error).partition("\n")[0].rpartition("last error: ")[2] or "no reason given"


def _fault(error: grpc.RpcError) -> _Fault | None:
    details = _details(error)
    return next((fault for fault in _FAULTS if any(sign in details for sign in fault.signs)), None)


def _closed_hint(endpoint: Endpoint) -> str:
    # Since TLS 1.3 a server checks the client's certificate after the client has finished its handshake; gRPC then
    # mostly reports a closed socket.
    if not endpoint.secure:
        return "Check that this is the port of a Spark Connect server, and whether it requires TLS."
    if endpoint.client_certificate:
        return "It may not trust the issuer of client_certificate: use a certificate that it trusts, or check the port."
    return "It may require a client certificate: set client_certificate and client_key, or check the port."


def _proxy_hint(endpoint: Endpoint) -> str:
    variable = next((name for name in _PROXY_VARIABLES if os.getenv(name)), None)
    if variable is None or endpoint.is_loopback:
        return ""
    return f" ${variable} is set: if this server should be reached without that proxy, add its host to $no_proxy."


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    # gRPC's errors are also calls, but their type does not declare it.
    code = getattr(error, "code", lambda: None)()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _details(error: grpc.RpcError) -> str:
    return str(getattr(error, "details", lambda: None)() or "")
