"""What a failed call to a Spark Connect server means, in a sentence."""

from __future__ import annotations

import grpc

from airflow_provider_sparkdeps.spark.endpoint import Endpoint

# gRPC tells most causes of UNAVAILABLE only in its text. First match wins.
_UNAVAILABLE = (
    (("CERTIFICATE_VERIFY_FAILED", "unable to get local issuer"),
     "its certificate is signed by an authority that is not trusted here: give that authority's certificate in "
     "the field ca_certificate"),
    (("Hostname Verification", "not match", "Peer name"),
     "its certificate is for another host name: use the name that is in the certificate"),
    (("CERTIFICATE_REQUIRED", "certificate required", "BAD_CERTIFICATE", "HANDSHAKE_FAILURE"),
     "it asks for a client certificate: fill in client_certificate and client_key"),
    (("WRONG_VERSION_NUMBER", "wrong version number"),
     "it does not speak TLS on this port: switch TLS off, or use its TLS port"),
    (("Ssl handshake failed", "SSL", "handshaker shutdown", "Handshake"),
     "the TLS handshake failed: check whether the port speaks TLS, and the certificates"),
    (("DNS resolution failed", "Name or service not known", "not known", "Domain name not found"),
     "the host name can't be resolved: check its spelling, and the DNS of this worker"),
    (("Connection refused",),
     "nothing listens there: start the server (sbin/start-connect-server.sh), or mend host and port"),
    (("No route to host", "Network is unreachable", "Connection timed out", "Deadline", "FD Shutdown", "timeout"),
     "no answer from that address: check host, port and firewall"),
    (("http1.x", "Trying to connect", "HTTP2", "missing or incomplete", "SETTINGS"),
     "something answers there, but it does not speak gRPC: is this the Spark Connect port (15002 by default)?"),
    (("Socket closed", "Connection reset", "recvmsg", "closed"),
     "it closes the connection: does it want TLS, or is it no Spark Connect server?"),
)  # fmt: skip


def may_pass(error: grpc.RpcError) -> bool:
    """Whether the fault can go away by itself: nobody listens yet, or the network had a hiccup."""
    text = _details(error)
    wrong_for_good = any(part in text for parts, _ in _UNAVAILABLE[:5] for part in parts)
    return _code(error) is grpc.StatusCode.UNAVAILABLE and not wrong_for_good


def explain(error: grpc.RpcError, endpoint: Endpoint) -> str:
    """Return the fault, its cause and the mend, in one sentence without credentials."""
    return f"Can't open a Spark Connect session at {endpoint.target}: {_cause(error, endpoint)}"


def _cause(error: grpc.RpcError, endpoint: Endpoint) -> str:
    code, details = _code(error), _details(error)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        if endpoint.token:
            return "the server refuses the bearer token: mend the connection's password"
        return "the server asks for a bearer token: put it into the connection's password"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "a gRPC server answers there, but not a Spark Connect server (4.0 or later): check host and port"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            f"no answer within the connection's request timeout ({endpoint.request_timeout:g} s): check host, port "
            "and firewall, or raise the timeout if the server is only slow"
        )
    for parts, cause in _UNAVAILABLE:
        if any(part in details for part in parts):
            return cause
    return f"the server answered {code.name}: {details.splitlines()[0] if details else 'without a reason'}"


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    # gRPC's errors are calls, too, which their type does not say.
    code = getattr(error, "code", lambda: None)()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _details(error: grpc.RpcError) -> str:
    return str(getattr(error, "details", lambda: None)() or "")
