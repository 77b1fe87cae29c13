"""Requirements as Python writes them (PEP 508), brought into one spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from airflow_provider_sparkdeps.environments.words import redact
from airflow_provider_sparkdeps.errors import WishError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_SECRET_PARAMETER = re.compile(r"token|secret|passw|credential|signature|^sig$|api_?key", re.IGNORECASE)


def normalise(requirements: object) -> tuple[str, ...]:
    """Return requirements sorted and in one spelling, without comments, empty lines and repetitions.

    :param requirements: a list of PEP 508 strings, such as `["pandas<3", "pyarrow"]`.
    :raises WishError: when it isn't a list, is empty, or holds what is no requirement.
    """
    if isinstance(requirements, str | bytes) or not isinstance(requirements, Iterable):
        raise WishError(
            f"requirements={requirements!r} is not a list. Write one string per package,"
            ' such as requirements=["pandas<3", "pyarrow"].'
        )
    lines = (_without_comment(each) for each in requirements)
    spelled = tuple(sorted({_spell(line) for line in lines if line}))
    if not spelled:
        raise WishError(
            "requirements is empty. Name at least one package, such as requirements=['pandas<3'],"
            " or leave the environment out to use what the cluster has."
        )
    return spelled


def _without_comment(line: object) -> str:
    if not isinstance(line, str):
        raise WishError(f"Requirement {line!r} is not a string. Write it as one, such as 'pandas<3'.")
    return re.sub(r"(^|\s)#.*", "", line).strip()


def _spell(line: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        reason = redact(str(error)).splitlines()[0].rstrip(".")
        raise WishError(f"{redact(line)!r} is not a requirement: {reason}. {_mend(line)}") from None
    _check_url(requirement)
    extras = ",".join(sorted(canonicalize_name(extra) for extra in requirement.extras))
    spelled = canonicalize_name(requirement.name) + (f"[{extras}]" if extras else "")
    spelled += f" @ {requirement.url}" if requirement.url else str(requirement.specifier)
    return spelled + (f" ; {requirement.marker}" if requirement.marker else "")


def _mend(line: str) -> str:
    if line.startswith("-"):
        return "Options of pip or uv don't go here: name the package, and set up indexes where uv reads them."
    if line.startswith((".", "/")) or line.endswith((".whl", ".tar.gz")):
        return "Paths can't be installed: publish the package to an index and name it, such as 'my-lib==1.2'."
    return "Write a name and, if need be, versions: 'pandas', 'pandas>=2,<3', 'pandas[parquet]==2.2.*'."


def _check_url(requirement: Requirement) -> None:
    if not requirement.url:
        return
    url = urlsplit(requirement.url)
    if url.scheme in ("", "file"):
        raise WishError(f"{requirement.name!r} comes from a file. {_mend('.')}")
    # `git@` in an ssh URL names an account that everyone shares; any other user name may be a token.
    shared_user = url.scheme.endswith("ssh") and url.password is None
    secret_names = [name for name, _ in parse_qsl(url.query, True) if _SECRET_PARAMETER.search(name)]
    if ((url.username or url.password) and not shared_user) or secret_names:
        raise WishError(
            f"The URL of requirement {requirement.name!r} holds a credential, which would end up in manifests and"
            " logs. Take it out, and give the builder access by a connection or by the environment (netrc,"
            " UV_INDEX_<NAME>_USERNAME and _PASSWORD, a git credential helper)."
        )
