"""A router on the Hugging Face hub: found there, and put there."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from prefill_router.errors import InputError
from prefill_router.router_files import CARD, CONFIG, TENSORS, TOKENIZER

PATTERNS = (CONFIG, TENSORS, CARD, TOKENIZER.format("*"))


def find(name: str, revision: str | None = None) -> Path:
    """Return the directory of a router: a local one, else its snapshot from the hub.

    Parameters
    ----------
    name : str
        A path, or ``owner/name`` on the Hugging Face hub.
    revision : str, optional
        A commit, branch or tag on the hub.

    Raises
    ------
    InputError
        If it is neither, or the hub cannot be reached.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
        raise InputError(f"{name}: no such directory; give that of a saved router, or a hub id.")
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(PATTERNS)))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = f" at {revision}" if revision else ""
        raise InputError(
            f"The Hugging Face hub has no router {name!r}{at} that it would show (is it spelled "
            "right; does it ask for a login?), and there is no such directory."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name!r} is no directory, and the Hugging Face hub cannot be reached for it "
            f"({type(error).__name__}): this machine is offline, or the name is no hub id."
        ) from error


def upload(
    directory: Path,
    repo_id: str,
    *,
    token: str | None,
    private: bool | None,
    revision: str | None,
    commit_message: str,
    create_pr: bool,
) -> str:
    """Upload a saved router; parameters as for `prefill_router.router.Router.push_to_hub`.

    Returns
    -------
    str
        The address of the commit.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=directory,
        revision=revision,
        commit_message=commit_message,
        create_pr=create_pr,
    )
    return commit.commit_url
