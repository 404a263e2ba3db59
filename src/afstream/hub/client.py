"""The one module that speaks to the model hub, through huggingface_hub; its errors as sentences.

A file is fetched by huggingface_hub's `http_get`, which goes on from a given byte. Its
`hf_hub_download` drops the part that it has when it is stopped, in the releases of 2026, and then
begins 28 GB anew.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
)

from afstream.errors import DownloadError, reason_of

TIMEOUT_S = 30
LIBRARY = "afstream"
# one of them carries the requests; which one depends on the release of huggingface_hub
TRANSPORTS = ("requests", "httpx", "httpx2")
# the group of progress bars that http_get draws
BARS = "huggingface_hub.http_get"
UNAUTHORISED, FORBIDDEN, NOT_FOUND, TOO_MANY, FAULT = 401, 403, 404, 429, 500
AGAIN = "run the same command again, which goes on where this one stopped"
OTHER = "--from OWNER/NAME names another repository with the same files"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub states it.

    Attributes:
        path: in the repository.
        num_bytes: its size.
        digest: of a large file its SHA-256, of a small one the SHA-1 under which git has it.
    """

    path: str
    num_bytes: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository as the hub states it now.

    Attributes:
        name: `owner/name`.
        card: address of its model card.
        revision: the commit that all else is about.
        licence: as the model card says; empty where it says none.
        files: those whose size and digest are known, by path.
    """

    name: str
    card: str
    revision: str
    licence: str
    files: Mapping[str, RemoteFile]


def look(name: str) -> Repository:
    """What the hub says of a repository now; one request, nothing is written.

    Raises:
        DownloadError: the hub cannot be reached, refuses, or answers something else.
    """
    api = HfApi(endpoint=_endpoint(), library_name=LIBRARY)
    with _sentences(name):
        try:
            info = api.model_info(name, files_metadata=True, timeout=TIMEOUT_S)
        except HFValidationError as error:
            raise DownloadError(
                f"{name!r} is no name of a repository; give OWNER/NAME as on {api.endpoint}"
            ) from error
        # what answers is not the hub: a login page, or another server
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _no_hub(api.endpoint) from error
    said: tuple[object, ...] = (info.id, info.sha)
    if info.sha is None or not all(isinstance(one, str) for one in said):
        raise _no_hub(api.endpoint)
    if info.id != name:
        raise DownloadError(
            f"{name} is now called {info.id}; look at {api.endpoint}/{info.id}, and give --from"
            f" {info.id} to fetch from there"
        )
    files = {one.path: one for one in map(_remote, info.siblings or ()) if one}
    return Repository(
        name=name,
        card=f"{api.endpoint}/{name}",
        revision=info.sha,
        licence=_licence(info),
        files=files,
    )


def fetch(repository: Repository, remote: RemoteFile, into: BinaryIO, have: int) -> None:
    """Append to an open file what it lacks of a remote one.

    Args:
        repository: whose revision is fetched, even if there is a newer one.
        remote: the file.
        into: stands at its end, after `have` bytes.
        have: bytes that are there already.

    Raises:
        DownloadError: the hub cannot be reached, refuses, or sent less than it stated.
        OSError: the system refuses to write.
    """
    url = hf_hub_url(
        repository.name, remote.path, revision=repository.revision, endpoint=_endpoint()
    )
    headers = build_hf_headers(library_name=LIBRARY)
    with _sentences(repository.name, remote.path), _quiet():
        while True:
            try:
                http_get(
                    url,
                    into,
                    resume_size=have,
                    headers=headers,
                    expected_size=remote.num_bytes,
                    displayed_filename=remote.path,
                )
            except Exception as error:
                # a connection that broke off after some bytes is taken up again
                if not _is_transport(error) or into.tell() <= have:
                    raise
                have = into.tell()
            else:
                return


def _endpoint() -> str | None:
    """Another hub than Hugging Face's, or a mirror; None where the user names none."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _no_hub(endpoint: str) -> DownloadError:
    return DownloadError(
        f"{endpoint} did not answer as the model hub does; check the proxy, the login page of the"
        " network, and HF_ENDPOINT"
    )


def _remote(sibling: Any) -> RemoteFile | None:  # noqa: ANN401 - RepoSibling, of any release
    """A file of a repository; None where the hub does not say all that must be known of it."""
    lfs = sibling.lfs
    num_bytes = lfs.size if lfs else sibling.size
    digest = lfs.sha256 if lfs else sibling.blob_id
    if not isinstance(num_bytes, int) or not isinstance(digest, str):
        return None
    return RemoteFile(sibling.rfilename, num_bytes, digest)


def _licence(info: Any) -> str:  # noqa: ANN401 - ModelInfo, of any release
    """The licence that a model card names, with its link; empty where it names none."""
    card = info.card_data
    names = ("license_name", "license", "license_link")
    own, usual, link = (card.get(name) for name in names) if card else (None, None, None)
    said = [own or usual, link]
    if not any(said):
        tags = info.tags or ()
        said = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    return " ".join(str(one) for one in said if one)


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keep huggingface_hub's bars and warnings from the terminal, which has a bar of its own."""
    log = logging.getLogger("huggingface_hub")
    level, hidden = log.level, are_progress_bars_disabled(BARS)
    log.setLevel(logging.ERROR)
    if not hidden:
        disable_progress_bars(BARS)
    try:
        yield
    finally:
        log.setLevel(level)
        if not hidden:
            enable_progress_bars(BARS)


@contextmanager
def _sentences(repository: str, path: str = "") -> Generator[None, None, None]:
    """Turn what huggingface_hub raises within the block into a `DownloadError`."""
    try:
        yield
    except Exception as error:
        known = _sentence(error, repository, path)
        if known is None:
            raise
        raise DownloadError(known) from error


def _sentence(error: Exception, repository: str, path: str) -> str | None:
    """What a user can do about an error; None for one that is not the hub's."""
    hub = _endpoint() or "https://huggingface.co"
    card = f"{hub}/{repository}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so {hub} is not asked; unset it to download"
    if isinstance(error, GatedRepoError):
        return (
            f"{repository} is gated: agree to its terms at {card}, then log in with `hf auth"
            " login`, or set HF_TOKEN"
        )
    if isinstance(error, DisabledRepoError):
        return f"{repository} was disabled by the hub; see {card}, and {OTHER}"
    if isinstance(error, (EntryNotFoundError, RevisionNotFoundError)):
        return f"{path or repository} is no longer at {card}; {OTHER}"
    if _is_transport(error):
        response = getattr(error, "response", None)
        if response is not None:
            return _refusal(response.status_code, repository, card)
        return (
            f"{hub} cannot be reached ({reason_of(error)}); check the network and its proxy, and"
            f" {AGAIN}"
        )
    # the size is wrong, which is not the system's refusal to write
    if isinstance(error, OSError) and error.errno is None and path:
        return f"{path} did not arrive whole; {AGAIN}"
    return None


def _is_transport(error: Exception) -> bool:
    """Whether an error is of HTTP or below, a refusal of the hub's among them."""
    return any(kind.__module__.partition(".")[0] in TRANSPORTS for kind in type(error).__mro__)


def _refusal(status: int, repository: str, card: str) -> str:
    """The hub's refusal by its status."""
    if status == UNAUTHORISED:
        return (
            f"the hub shows {repository} to nobody unknown (401): it is gone, private, or the token"
            f" is not valid; see {card}, log in with `hf auth login`, or {OTHER}"
        )
    if status == FORBIDDEN:
        return (
            f"the hub refuses {repository} (403): the token has no right to it; see {card}, and log"
            " in with `hf auth login`"
        )
    if status == NOT_FOUND:
        return f"the hub has no {repository} (404); see {card}; {OTHER}"
    if status == TOO_MANY:
        return f"the hub asks for fewer requests (429); wait some minutes, and {AGAIN}"
    if status >= FAULT:
        return f"the hub has a fault ({status}); wait some minutes, and {AGAIN}"
    return f"the hub refuses {repository} ({status}); see {card}"
