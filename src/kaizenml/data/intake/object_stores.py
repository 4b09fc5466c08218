"""pyarrow's file systems for addresses in object stores. Keys, accounts and servers come from the variables that each vendor's own tools read."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from kaizenml.errors import UsageError

_GOOGLE_MACHINE = Path("/sys/class/dmi/id/product_name")  # as Google's own libraries look whether this is one of its machines
_TRIED = timedelta(seconds=30)  # the library's own limit is a quarter of an hour


def store_of(uri: str, shown: str) -> tuple[Any, str]:
    """Return the file system for an address, and the path in it.

    Raises
    ------
    UsageError : the environment does not say which storage account is meant.
    """
    scheme, _, rest = uri.partition("://")
    rest = rest.rstrip("/")
    if scheme == "s3":
        return _s3(), rest
    if scheme in ("gs", "gcs"):
        return _google(), rest
    container, _, path = rest.partition("/")
    container, at, host = container.partition("@")  # abfss://container@account.dfs.core.windows.net/path
    return _azure(shown, host.partition(".")[0] if at else None), f"{container}/{path}".rstrip("/")


def _s3() -> Any:
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options: dict[str, Any] = {"request_timeout": 60, "connect_timeout": 5}
    if endpoint:
        kind, _, host = endpoint.partition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": kind}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(region=region or ("us-east-1" if endpoint else None), **options)


def _google() -> Any:
    from pyarrow import fs

    server = os.environ.get("STORAGE_EMULATOR_HOST")
    if server:
        kind, _, host = server.rpartition("://")
        return fs.GcsFileSystem(anonymous=True, scheme=kind or "http", endpoint_override=host.rstrip("/"), retry_time_limit=_TRIED)
    return fs.GcsFileSystem(anonymous=not _known_to_google(), retry_time_limit=_TRIED)


def _known_to_google() -> bool:
    """Whether there are credentials where Google's tools look for them; without, only what is public can be read."""
    if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return True
    folder = Path(os.environ.get("CLOUDSDK_CONFIG", "~/.config/gcloud")).expanduser()
    if (folder / "application_default_credentials.json").exists():
        return True
    try:
        return _GOOGLE_MACHINE.read_text(encoding="utf-8").startswith("Google")
    except OSError:
        return False


def _azure(shown: str, account: str | None) -> Any:
    from pyarrow import fs

    said = dict(part.split("=", 1) for part in os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";") if "=" in part)
    account = account or said.get("AccountName") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_ACCOUNT")
    if not account:
        raise UsageError(
            f"{shown} needs the name of the storage account", remedy="export AZURE_STORAGE_ACCOUNT_NAME=...", values={"source": shown}
        )
    key = said.get("AccountKey") or os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or os.environ.get("AZURE_STORAGE_KEY")
    token = said.get("SharedAccessSignature") or os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    options: dict[str, Any] = {"account_key": key} if key else {"sas_token": token} if token else {}
    endpoint = said.get("BlobEndpoint") or os.environ.get("AZURE_STORAGE_ENDPOINT")
    if endpoint:
        kind, _, host = endpoint.partition("://")
        host = host.partition("/")[0].removeprefix(account)  # an endpoint that begins with the account's name is given without it
        options |= {"blob_storage_authority": host, "blob_storage_scheme": kind}
        options |= {"dfs_storage_authority": host.replace(".blob.", ".dfs."), "dfs_storage_scheme": kind}
    return fs.AzureFileSystem(account, **options)
