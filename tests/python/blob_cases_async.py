"""Blob Storage by the asynchronous side of azure-storage-blob, which has its own HTTP client and its own streaming.

usage: blob_cases_async.py CONNECTION_STRING
"""
import sys
import uuid

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import BlobBlock, generate_container_sas
from azure.storage.blob.aio import BlobServiceClient, ContainerClient

from blob_values import MIB, content, in_an_hour
from cases import case, raises, run


class Account:
    """A client for the time of a case: it belongs to the event loop of the case."""

    def __init__(self, connection_string):
        self.connection_string = connection_string

    async def __aenter__(self):
        sizes = {"max_single_put_size": MIB, "max_block_size": MIB, "max_single_get_size": MIB, "max_chunk_get_size": MIB}
        self.service = BlobServiceClient.from_connection_string(self.connection_string, retry_total=0, **sizes)
        self.container = await self.service.create_container(f"c-{uuid.uuid4()}")
        return self

    async def __aexit__(self, *_):
        await self.service.close()


def with_account(body):
    async def with_account(account):
        async with account:
            await body(account.container)

    with_account.__name__ = body.__name__
    return case(with_account)


@with_account
async def container_that_exists(container):
    assert await container.exists()
    with raises(ResourceExistsError, "ContainerAlreadyExists", 409):
        await container.create_container()


@with_account
async def put_and_get(container):
    blob = container.get_blob_client("b")
    await blob.upload_blob(b"0123456789", metadata={"a": "b"})
    assert (await blob.get_blob_properties()).metadata == {"a": "b"}
    assert await (await blob.download_blob()).readall() == b"0123456789"
    assert await (await blob.download_blob(offset=2, length=3)).readall() == b"234"


@with_account
async def put_and_get_in_parallel_parts(container):
    blob = container.get_blob_client("large")
    await blob.upload_blob(content(5 * MIB + 5), max_concurrency=3)
    assert await (await blob.download_blob(max_concurrency=3)).readall() == content(5 * MIB + 5)
    parts = [part async for part in (await blob.download_blob()).chunks()]
    assert b"".join(parts) == content(5 * MIB + 5)


@with_account
async def put_stream_of_unknown_length(container):
    async def parts():
        for at in range(0, 3 * MIB, 100_000):
            yield content(3 * MIB)[at : at + 100_000]

    await container.upload_blob("b", parts())
    assert await (await container.download_blob("b")).readall() == content(3 * MIB)


@with_account
async def stage_and_commit_once(container):
    blob = container.get_blob_client("b")
    await blob.stage_block("aaaa", b"1")
    await blob.stage_block("bbbb", b"2")
    commit = lambda: blob.commit_block_list(
        [BlobBlock("bbbb"), BlobBlock("aaaa")], match_condition=MatchConditions.IfMissing
    )
    await commit()
    with raises(ResourceExistsError, "BlobAlreadyExists", 409):
        await commit()
    assert await (await blob.download_blob()).readall() == b"21"


@with_account
async def conditions(container):
    blob = container.get_blob_client("b")
    etag = (await blob.upload_blob(b"x"))["etag"]
    await blob.download_blob(etag=etag, match_condition=MatchConditions.IfNotModified)
    with raises(ResourceModifiedError, "ConditionNotMet", 412):
        await blob.download_blob(etag='"0x1"', match_condition=MatchConditions.IfNotModified)


@with_account
async def what_is_missing(container):
    with raises(ResourceNotFoundError, "BlobNotFound", 404):
        await container.download_blob("b")
    with raises(ResourceNotFoundError, "BlobNotFound", 404):
        await container.get_blob_client("b").get_blob_properties()


@with_account
async def list_in_pages(container):
    for index in range(5):
        await container.upload_blob(f"a/{index}", b"x")
    pages = container.list_blobs("a/", results_per_page=2).by_page()
    pages = [[item.name async for item in page] async for page in pages]
    assert pages == [["a/0", "a/1"], ["a/2", "a/3"], ["a/4"]]
    assert [item.name async for item in container.walk_blobs()] == ["a/"]


@with_account
async def sas_and_its_limits(container):
    sas = generate_container_sas(
        container.account_name, container.container_name, container.credential.account_key, permission="rl",
        expiry=in_an_hour(),
    )
    await container.upload_blob("b", b"x")
    async with ContainerClient.from_container_url(container.url, credential=sas, retry_total=0) as mine:
        assert await (await mine.download_blob("b")).readall() == b"x"
        with raises(HttpResponseError, "AuthorizationPermissionMismatch", 403):
            await mine.delete_blob("b")


@with_account
async def delete(container):
    await container.upload_blob("b", b"x")
    await container.delete_blob("b")
    with raises(ResourceNotFoundError, "BlobNotFound", 404):
        await container.delete_blob("b")
    await container.delete_container()
    assert not await container.exists()


if __name__ == "__main__":
    run(Account(sys.argv[1]))
