"""Blob Storage by azure-storage-blob. Every case makes what it needs, and runs against any server.

usage: blob_cases.py CONNECTION_STRING

Where Azurite departs from Azure's documentation, the case says what each does, and why ours follows the documentation.
"""
import base64
import hashlib
import sys
import uuid
from datetime import timedelta

from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    AccountSasPermissions,
    BlobBlock,
    BlobClient,
    BlobSasPermissions,
    BlobServiceClient,
    BlobType,
    ContainerClient,
    ContainerSasPermissions,
    ContentSettings,
    ResourceTypes,
    Services,
    StandardBlobTier,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

from blob_values import MIB, content, in_an_hour, now
from cases import absent, case, raises, run


class Seen:
    """The headers of the last answer."""

    def __call__(self, answer):
        self.headers = answer.http_response.headers


class Server:
    """The account under test."""

    def __init__(self, connection_string):
        self.connection_string = connection_string
        fields = dict(field.split("=", 1) for field in connection_string.strip(";").split(";"))
        self.name, self.key = fields["AccountName"], fields["AccountKey"]
        self.service = self.client()
        seen = Seen()
        self.service.get_account_information(raw_response_hook=seen)
        self.is_azurite = seen.headers.get("Server", "").startswith("Azurite")

    def client(self, **options):
        return BlobServiceClient.from_connection_string(self.connection_string, retry_total=0, **options)

    def container(self):
        """A new container, and the name that nothing else has."""
        return self.service.create_container(f"c-{uuid.uuid4()}")

    def with_sas(self, sas, container, blob=None):
        """A client that has nothing but a SAS, for a container or a blob of it."""
        url = f"{self.service.url.rstrip('/')}/{container.container_name}"
        if blob is None:
            return ContainerClient.from_container_url(url, credential=sas, retry_total=0)
        return BlobClient.from_blob_url(f"{url}/{blob}", credential=sas, retry_total=0)

    def account_sas(self, **options):
        given = {
            "resource_types": ResourceTypes(service=True, container=True, object=True),
            "permission": AccountSasPermissions(read=True, write=True, delete=True, list=True, create=True),
            "expiry": in_an_hour(),
        }
        return generate_account_sas(self.name, self.key, **{**given, **options})

    def container_sas(self, container, permission, **options):
        permission = ContainerSasPermissions.from_string(permission)
        given = {"permission": permission, "expiry": in_an_hour(), **options}
        return generate_container_sas(self.name, container.container_name, self.key, **given)

    def blob_sas(self, container, blob, permission, **options):
        permission = BlobSasPermissions.from_string(permission)
        given = {"permission": permission, "expiry": in_an_hour(), **options}
        return generate_blob_sas(self.name, container.container_name, blob, account_key=self.key, **given)


def md5(data):
    return bytearray(hashlib.md5(data).digest())


# Containers


@case
def create_container(server):
    made = server.service.create_container(f"c-{uuid.uuid4()}", metadata={"a": "b"})
    properties = made.get_container_properties()
    assert properties.metadata == {"a": "b"} and properties.etag and properties.last_modified


@case
def create_container_that_exists(server):
    container = server.container()
    with raises(ResourceExistsError, "ContainerAlreadyExists", 409):
        container.create_container()


@case
def create_container_with_a_wrong_name(server):
    # Azure: InvalidResourceName for characters that no name has, OutOfRangeInput for a wrong length; so does Azurite.
    with raises(HttpResponseError, "InvalidResourceName", 400):
        server.service.create_container("two--hyphens")
    with raises(HttpResponseError, "OutOfRangeInput", 400):
        server.service.create_container("ab")


@case
def container_exists(server):
    assert server.container().exists()
    assert not server.service.get_container_client("nobody-made-this").exists()


@case
def container_properties(server):
    properties = server.container().get_container_properties()
    assert properties.lease.state == "available" and properties.lease.status == "unlocked"
    assert not properties.has_immutability_policy and not properties.has_legal_hold
    assert properties.public_access is None


@case
def set_container_metadata(server):
    container = server.container()
    before = container.get_container_properties().etag
    container.set_container_metadata({"rows": "7"})
    after = container.get_container_properties()
    assert after.metadata == {"rows": "7"} and after.etag != before


@case
def list_containers(server):
    prefix = f"l-{uuid.uuid4()}"
    names = [f"{prefix}-{index}" for index in range(5)]
    for name in names:
        server.service.create_container(name, metadata={"name": name})
    pages = server.service.list_containers(prefix, include_metadata=True, results_per_page=2).by_page()
    pages = [[(item.name, item.metadata) for item in page] for page in pages]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sum(pages, []) == [(name, {"name": name}) for name in names]


@case
def delete_container(server):
    container = server.container()
    container.upload_blob("b", b"x")
    container.delete_container()
    assert not container.exists()
    with raises(ResourceNotFoundError, "ContainerNotFound", 404):
        container.delete_container()


@case
def delete_container_conditions(server):
    container = server.container()
    with raises(ResourceModifiedError, "ConditionNotMet", 412):
        container.delete_container(if_unmodified_since=now() - timedelta(days=1))
    container.delete_container(if_modified_since=now() - timedelta(days=1))


@case
def recreate_a_deleted_container(server):
    container = server.container()
    container.delete_container()
    if server.is_azurite:
        # "Delete Container": the name is not free for at least 30 seconds. Azurite frees it at once.
        container.create_container()
    else:
        with raises(ResourceExistsError, "ContainerBeingDeleted", 409):
            container.create_container()


@case
def public_access_is_refused(server):
    name = f"c-{uuid.uuid4()}"
    if server.is_azurite:
        # Accounts are made without public access since 2023. Azurite always permits it.
        server.service.create_container(name, public_access="blob")
    else:
        with raises(HttpResponseError, "PublicAccessNotPermitted", 409):
            server.service.create_container(name, public_access="blob")


@case
def container_not_found(server):
    container = server.service.get_container_client("nobody-made-this")
    for attempt in (
        container.get_container_properties,
        lambda: list(container.list_blobs()),
        lambda: container.upload_blob("b", b"x"),
        lambda: container.download_blob("b"),
        lambda: container.get_blob_client("b").stage_block("aaaa", b"x"),
    ):
        with raises(ResourceNotFoundError, "ContainerNotFound", 404):
            attempt()


@case
def account_information(server):
    information = server.service.get_account_information()
    assert information["account_kind"] == "StorageV2" and information["sku_name"]


# Writing


@case
def put_blob(server):
    settings = ContentSettings(
        content_type="text/csv", content_encoding="identity", content_language="de", content_disposition="attachment",
        cache_control="no-cache",
    )
    blob = server.container().get_blob_client("a/ä b+c%d&e.csv")
    put = blob.upload_blob(b"1,2\n", content_settings=settings, metadata={"rows": "1"})
    properties = blob.get_blob_properties()
    assert properties.etag == put["etag"] and properties.last_modified == put["last_modified"]
    assert properties.size == 4 and properties.blob_type == BlobType.BLOCKBLOB and properties.metadata == {"rows": "1"}
    kept = properties.content_settings
    assert kept.content_md5 == md5(b"1,2\n")
    for name in ("content_type", "content_encoding", "content_language", "content_disposition", "cache_control"):
        assert getattr(kept, name) == getattr(settings, name), name
    assert blob.download_blob().readall() == b"1,2\n"


@case
def put_empty_blob(server):
    blob = server.container().get_blob_client("empty")
    blob.upload_blob(b"")
    assert blob.get_blob_properties().size == 0 and blob.download_blob().readall() == b""
    with raises(HttpResponseError, "InvalidRange", 416):
        blob.download_blob(offset=1, length=1).readall()


@case
def put_blob_without_overwriting(server):
    blob = server.container().get_blob_client("b")
    blob.upload_blob(b"first")
    with raises(ResourceExistsError, "BlobAlreadyExists", 409):
        blob.upload_blob(b"second")
    assert blob.download_blob().readall() == b"first"
    blob.upload_blob(b"third", overwrite=True)
    assert blob.download_blob().readall() == b"third"


@case
def put_blob_conditions(server):
    blob = server.container().get_blob_client("b")
    first = blob.upload_blob(b"1")["etag"]
    second = blob.upload_blob(b"2", overwrite=True, etag=first, match_condition=MatchConditions.IfNotModified)["etag"]
    for conditions in (
        {"etag": first, "match_condition": MatchConditions.IfNotModified},
        {"etag": second, "match_condition": MatchConditions.IfModified},
        {"if_unmodified_since": now() - timedelta(days=1)},
        {"if_modified_since": now() + timedelta(minutes=5)},
    ):
        with raises(ResourceModifiedError, "ConditionNotMet", 412):
            blob.upload_blob(b"3", overwrite=True, **conditions)
    assert blob.download_blob().readall() == b"2"


@case
def put_blob_that_must_exist(server):
    blob = server.container().get_blob_client("b")
    attempt = lambda: blob.upload_blob(b"1", overwrite=True, match_condition=MatchConditions.IfPresent)
    if server.is_azurite:
        # "Specifying conditional headers": `If-Match: *` is for a blob that is there. Azurite makes a new one.
        attempt()
    else:
        with raises(HttpResponseError, "ConditionNotMet", 412):
            attempt()


@case
def put_large_blob_in_parallel_blocks(server):
    data = content(9 * MIB + 5)
    container = server.client(max_single_put_size=MIB, max_block_size=MIB).get_container_client(
        server.container().container_name
    )
    blob = container.get_blob_client("large")
    blob.upload_blob(data, max_concurrency=4, metadata={"a": "b"})
    assert len(blob.get_block_list("committed")[0]) == 10
    properties = blob.get_blob_properties()
    assert properties.size == len(data) and properties.metadata == {"a": "b"}
    assert properties.content_settings.content_md5 is None, "nobody has computed it"
    assert blob.download_blob(max_concurrency=4).readall() == data


@case
def put_stream_of_unknown_length(server):
    blob = server.container().get_blob_client("stream")
    blob.upload_blob(content(MIB)[at : at + 1000] for at in range(0, MIB, 1000))
    assert blob.download_blob().readall() == content(MIB)


@case
def put_blob_with_a_tier(server):
    blob = server.container().get_blob_client("cool")
    blob.upload_blob(b"x", standard_blob_tier=StandardBlobTier.COOL)
    properties = blob.get_blob_properties()
    assert properties.blob_tier == "Cool" and not properties.blob_tier_inferred


@case
def transactional_md5(server):
    blob = server.container().get_blob_client("b")
    blob.upload_blob(b"x", validate_content=True)
    blob.stage_block("aaaa", b"x", validate_content=True)
    for attempt in (
        lambda hook: blob.upload_blob(b"y", overwrite=True, validate_content=True, raw_request_hook=hook),
        lambda hook: blob.stage_block("aaaa", b"y", validate_content=True, raw_request_hook=hook),
    ):
        # "Blob Storage error codes": Md5Mismatch. Azurite calls it InvalidOperation. The hook runs before the request is
        # signed.
        with raises(HttpResponseError, "InvalidOperation" if server.is_azurite else "Md5Mismatch", 400):
            attempt(lambda request: request.http_request.headers.update({"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}))


absent("transactional_crc64", "it sends a CRC64 only inside structured messages, with the package azure-storage-extensions")


@case
def stage_and_commit_in_another_order(server):
    blob = server.container().get_blob_client("b")
    for name in ("aaaa", "bbbb", "cccc"):
        blob.stage_block(name, name.encode())
    with raises(ResourceNotFoundError, "BlobNotFound", 404):
        blob.download_blob()
    order = ["cccc", "aaaa", "cccc"]
    blob.commit_block_list(
        [BlobBlock(name) for name in order], content_settings=ContentSettings(content_type="a/b"), metadata={"c": "d"}
    )
    properties = blob.get_blob_properties()
    assert properties.content_settings.content_type == "a/b" and properties.metadata == {"c": "d"}
    assert blob.download_blob().readall() == b"ccccaaaacccc"


@case
def commit_conditions(server):
    blob = server.container().get_blob_client("b")
    blob.stage_block("aaaa", b"1")
    blob.commit_block_list([BlobBlock("aaaa")], match_condition=MatchConditions.IfMissing)
    blob.stage_block("aaaa", b"2")
    with raises(ResourceExistsError, "BlobAlreadyExists", 409):
        blob.commit_block_list([BlobBlock("aaaa")], match_condition=MatchConditions.IfMissing)
    etag = blob.get_blob_properties().etag
    with raises(ResourceModifiedError, "ConditionNotMet", 412):
        blob.commit_block_list([BlobBlock("aaaa")], etag='"0x1"', match_condition=MatchConditions.IfNotModified)
    assert blob.download_blob().readall() == b"1"
    blob.commit_block_list([BlobBlock("aaaa")], etag=etag, match_condition=MatchConditions.IfNotModified)
    assert blob.download_blob().readall() == b"2"


@case
def commit_reuses_committed_blocks(server):
    blob = server.container().get_blob_client("b")
    blob.stage_block("aaaa", b"1")
    blob.commit_block_list([BlobBlock("aaaa")])
    blob.stage_block("bbbb", b"2")
    blob.commit_block_list([BlobBlock("bbbb"), BlobBlock("aaaa")])
    assert blob.download_blob().readall() == b"21"


@case
def commit_of_an_unknown_block(server):
    blob = server.container().get_blob_client("b")
    with raises(HttpResponseError, "InvalidBlockList", 400):
        blob.commit_block_list([BlobBlock("aaaa")])
    assert not blob.exists()


@case
def block_ids_of_two_lengths(server):
    blob = server.container().get_blob_client("b")
    blob.stage_block("aaaa", b"1")
    with raises(HttpResponseError, "InvalidBlobOrBlock", 400):
        blob.stage_block("aaaaa", b"1")


@case
def get_block_list(server):
    blob = server.container().get_blob_client("b")
    blob.stage_block("aaaa", b"1")
    blob.stage_block("bbbb", b"22")
    blob.commit_block_list([BlobBlock("bbbb"), BlobBlock("aaaa")])
    blob.stage_block("cccc", b"333")
    sizes = lambda blocks: [(block.id, block.size) for block in blocks]
    committed, staged = blob.get_block_list("all")
    assert (sizes(committed), sizes(staged)) == ([("bbbb", 2), ("aaaa", 1)], [("cccc", 3)])
    assert [sizes(part) for part in blob.get_block_list("committed")] == [[("bbbb", 2), ("aaaa", 1)], []]
    assert [sizes(part) for part in blob.get_block_list("uncommitted")] == [[], [("cccc", 3)]]


# Reading


@case
def get_blob(server):
    blob = server.container().get_blob_client("b")
    blob.upload_blob(b"0123456789", metadata={"a": "b"})
    got = blob.download_blob()
    assert got.size == 10 and got.properties.metadata == {"a": "b"}
    assert got.readall() == b"0123456789"


@case
def get_range(server):
    blob = server.container().get_blob_client("b")
    blob.upload_blob(b"0123456789")
    assert blob.download_blob(offset=2, length=3).readall() == b"234"
    assert blob.download_blob(offset=7).readall() == b"789"
    assert blob.download_blob(offset=8, length=100).readall() == b"89"


@case
def get_range_beyond_the_end(server):
    blob = server.container().get_blob_client("b")
    blob.upload_blob(b"0123456789")
    # Azurite takes a range that begins where the blob ends, so this one begins later.
    with raises(HttpResponseError, "InvalidRange", 416) as refused:
        blob.download_blob(offset=11).readall()
    assert refused.error.response.headers["Content-Range"] == "bytes */10"
    if not server.is_azurite:
        with raises(HttpResponseError, "InvalidRange", 416):
            blob.download_blob(offset=10).readall()


@case
def get_range_with_md5(server):
    blob = server.container().get_blob_client("b")
    blob.upload_blob(content(2 * MIB))
    seen = Seen()
    got = blob.download_blob(offset=100, length=MIB, validate_content=True, raw_response_hook=seen).readall()
    assert got == content(2 * MIB)[100 : 100 + MIB]
    assert seen.headers["Content-MD5"] == base64.b64encode(md5(got)).decode()


@case
def get_in_parallel_ranges(server):
    data = content(6 * MIB + 1)
    name = server.container().container_name
    blob = server.client(max_single_get_size=MIB, max_chunk_get_size=MIB).get_blob_client(name, "b")
    blob.upload_blob(data)
    assert blob.download_blob(max_concurrency=4).readall() == data
    assert b"".join(blob.download_blob().chunks()) == data


@case
def get_conditions(server):
    blob = server.container().get_blob_client("b")
    etag = blob.upload_blob(b"x")["etag"]
    past, future = now() - timedelta(days=1), now() + timedelta(minutes=5)
    for read in (lambda **conditions: blob.download_blob(**conditions), blob.get_blob_properties):
        read(etag=etag, match_condition=MatchConditions.IfNotModified)
        read(if_modified_since=past)
        read(if_unmodified_since=future)
        with raises(ResourceModifiedError, "ConditionNotMet", 412):
            read(etag='"0x1"', match_condition=MatchConditions.IfNotModified)
        with raises(ResourceModifiedError, "ConditionNotMet", 412):
            read(if_unmodified_since=past)
        with raises(HttpResponseError, status=304):
            read(etag=etag, match_condition=MatchConditions.IfModified)
        with raises(HttpResponseError, status=304):
            read(if_modified_since=future)


@case
def get_the_rest_of_a_blob_that_was_replaced(server):
    name = server.container().container_name
    blob = server.client(max_single_get_size=MIB, max_chunk_get_size=MIB).get_blob_client(name, "b")
    blob.upload_blob(content(3 * MIB))
    reading = blob.download_blob()
    blob.upload_blob(content(3 * MIB), overwrite=True)
    with raises(ResourceModifiedError, "ConditionNotMet", 412):
        reading.readall()


@case
def get_missing_blob(server):
    with raises(ResourceNotFoundError, "BlobNotFound", 404):
        server.container().download_blob("b")


@case
def head_missing_blob(server):
    blob = server.container().get_blob_client("b")
    with raises(ResourceNotFoundError, "BlobNotFound", 404) as refused:
        blob.get_blob_properties()
    assert refused.error.response.body() == b"", "an answer to HEAD has no body"


@case
def blob_exists(server):
    container = server.container()
    container.upload_blob("b", b"x")
    assert container.get_blob_client("b").exists() and not container.get_blob_client("c").exists()


@case
def get_archived_blob(server):
    blob = server.container().get_blob_client("b")
    etag = blob.upload_blob(b"x")["etag"]
    blob.set_standard_blob_tier(StandardBlobTier.ARCHIVE)
    properties = blob.get_blob_properties()
    assert properties.blob_tier == "Archive" and properties.etag == etag
    with raises(HttpResponseError, "BlobArchived", 409):
        blob.download_blob()


# Metadata and properties


@case
def set_http_headers(server):
    blob = server.container().get_blob_client("b")
    etag = blob.upload_blob(b"x", content_settings=ContentSettings(content_type="a/b"), metadata={"a": "b"})["etag"]
    settings = ContentSettings(content_type="c/d", cache_control="no-store")
    with raises(ResourceModifiedError, "ConditionNotMet", 412):
        blob.set_http_headers(settings, etag='"0x1"', match_condition=MatchConditions.IfNotModified)
    set_to = blob.set_http_headers(settings, etag=etag, match_condition=MatchConditions.IfNotModified)
    properties = blob.get_blob_properties()
    assert properties.etag == set_to["etag"] != etag
    assert properties.content_settings.content_type == "c/d" and properties.content_settings.cache_control == "no-store"
    assert properties.metadata == {"a": "b"}


@case
def set_blob_metadata(server):
    blob = server.container().get_blob_client("b")
    etag = blob.upload_blob(b"x", metadata={"a": "b"})["etag"]
    with raises(ResourceModifiedError, "ConditionNotMet", 412):
        blob.set_blob_metadata({"c": "d"}, etag='"0x1"', match_condition=MatchConditions.IfNotModified)
    blob.set_blob_metadata({"c": "d"}, etag=etag, match_condition=MatchConditions.IfNotModified)
    assert blob.get_blob_properties().metadata == {"c": "d"}
    blob.set_blob_metadata()
    assert blob.get_blob_properties().metadata == {}


@case
def set_metadata_with_a_wrong_name(server):
    blob = server.container().get_blob_client("b")
    blob.upload_blob(b"x")
    with raises(HttpResponseError, "InvalidMetadata", 400):
        blob.set_blob_metadata({"not-a-name": "x"})


# Listing


def names(items):
    return [item.name for item in items]


TREE = ["a/1", "a/2", "a/x/1", "a/x/2", "b", "c&d <e>", "z/1"]


def tree(server):
    container = server.container()
    for name in TREE:
        container.upload_blob(name, b"x", metadata={"key": "k"})
    return container


@case
def list_blobs(server):
    container = tree(server)
    assert names(container.list_blobs()) == TREE
    assert names(container.list_blobs("a/")) == TREE[:4]
    assert list(container.list_blob_names()) == TREE
    listed = next(iter(container.list_blobs("b")))
    known = container.get_blob_client("b").get_blob_properties()
    assert listed.etag == known.etag.strip('"'), "a listing leaves the quotes out"
    for name in ("last_modified", "size", "blob_type", "creation_time", "blob_tier"):
        assert getattr(listed, name) == getattr(known, name), name
    assert listed.content_settings.content_md5 == known.content_settings.content_md5


@case
def list_blobs_by_delimiter(server):
    container = tree(server)
    # This SDK gives the prefixes of a page before its blobs.
    assert names(container.walk_blobs()) == ["a/", "z/", "b", "c&d <e>"]
    assert names(container.walk_blobs("a/")) == ["a/x/", "a/1", "a/2"]


@case
def list_blobs_in_pages(server):
    container = tree(server)
    pages = [names(page) for page in container.list_blobs(results_per_page=3).by_page()]
    assert pages == [TREE[:3], TREE[3:6], TREE[6:]]
    first = container.list_blobs(results_per_page=3).by_page()
    next(first)
    rest = container.list_blobs(results_per_page=3).by_page(first.continuation_token)
    assert names(item for page in rest for item in page) == TREE[3:]


@case
def list_blobs_with_metadata(server):
    container = tree(server)
    assert all(item.metadata == {"key": "k"} for item in container.list_blobs(include=["metadata"]))
    assert not any(item.metadata for item in container.list_blobs())


@case
def list_uncommitted_blobs(server):
    container = server.container()
    container.upload_blob("a", b"x")
    container.get_blob_client("b").stage_block("aaaa", b"x")
    assert names(container.list_blobs()) == ["a"]
    assert names(container.list_blobs(include=["uncommittedblobs"])) == ["a", "b"]


# Deleting


@case
def delete_blob(server):
    container = server.container()
    container.upload_blob("b", b"x")
    container.delete_blob("b", delete_snapshots="include")
    with raises(ResourceNotFoundError, "BlobNotFound", 404):
        container.delete_blob("b")


@case
def delete_blob_conditions(server):
    blob = server.container().get_blob_client("b")
    etag = blob.upload_blob(b"x")["etag"]
    for conditions in (
        {"etag": '"0x1"', "match_condition": MatchConditions.IfNotModified},
        {"if_unmodified_since": now() - timedelta(days=1)},
    ):
        with raises(ResourceModifiedError, "ConditionNotMet", 412):
            blob.delete_blob(**conditions)
    blob.delete_blob(etag=etag, match_condition=MatchConditions.IfNotModified)
    assert not blob.exists()


# Who may do what


def not_authenticated(server):
    """"Status and error codes": what does not prove who calls is AuthenticationFailed, which this SDK has a class for.
    Azurite says AuthorizationFailure."""
    if server.is_azurite:
        return raises(HttpResponseError, "AuthorizationFailure", 403)
    return raises(ClientAuthenticationError, "AuthenticationFailed", 403)


@case
def wrong_account_key(server):
    key = base64.b64encode(b"another key").decode()
    wrong = server.connection_string.replace(server.key, key)
    service = BlobServiceClient.from_connection_string(wrong, retry_total=0)
    with not_authenticated(server):
        list(service.list_containers())


@case
def account_sas(server):
    container = server.container()
    service = BlobServiceClient(server.service.url, credential=server.account_sas(), retry_total=0)
    assert container.container_name in names(service.list_containers())
    blob = service.get_blob_client(container.container_name, "b")
    blob.upload_blob(b"x")
    assert blob.download_blob().readall() == b"x"
    blob.delete_blob()


@case
def account_sas_without_the_permission(server):
    container = server.container()
    sas = server.account_sas(permission=AccountSasPermissions(read=True))
    with raises(HttpResponseError, "AuthorizationPermissionMismatch", 403):
        server.with_sas(sas, container, "b").upload_blob(b"x")


@case
def account_sas_for_another_kind_of_resource(server):
    container = server.container()
    sas = server.account_sas(resource_types=ResourceTypes(object=True))
    with raises(HttpResponseError, "AuthorizationResourceTypeMismatch", 403):
        list(server.with_sas(sas, container).list_blobs())


@case
def account_sas_for_another_service(server):
    container = server.container()
    sas = server.account_sas(services=Services(queue=True))
    with raises(HttpResponseError, "AuthorizationServiceMismatch", 403):
        list(server.with_sas(sas, container).list_blobs())


@case
def container_sas(server):
    container = server.container()
    mine = server.with_sas(server.container_sas(container, "racwdl"), container)
    mine.upload_blob("b", b"x")
    assert names(mine.list_blobs()) == ["b"]
    assert mine.download_blob("b").readall() == b"x"
    mine.delete_blob("b")


@case
def container_sas_is_not_for_another_container(server):
    container, other = server.container(), server.container()
    with not_authenticated(server):
        list(server.with_sas(server.container_sas(container, "l"), other).list_blobs())


@case
def container_sas_cannot_delete_its_container(server):
    container = server.container()
    with raises(HttpResponseError, status=403) as refused:
        server.with_sas(server.container_sas(container, "racwdl"), container).delete_container()
    # Azurite names the permission; "Create a service SAS" has no permission that would do.
    wanted = "AuthorizationPermissionMismatch" if server.is_azurite else "AuthorizationFailure"
    assert refused.error.error_code == wanted, refused.error.error_code


@case
def blob_sas(server):
    container = server.container()
    container.upload_blob("a/b c", b"x")
    mine = server.with_sas(server.blob_sas(container, "a/b c", "r"), container, "a/b%20c")
    assert mine.download_blob().readall() == b"x" and mine.get_blob_properties().size == 1


@case
def blob_sas_is_not_for_another_blob(server):
    container = server.container()
    container.upload_blob("c", b"x")
    with not_authenticated(server):
        server.with_sas(server.blob_sas(container, "b", "r"), container, "c").download_blob()


@case
def sas_without_the_permission(server):
    container = server.container()
    blob = container.get_blob_client("b")
    blob.upload_blob(b"x")
    for permission, attempt in (
        ("wcdl", lambda mine: mine.download_blob("b")),
        ("wcdl", lambda mine: mine.get_blob_client("b").get_block_list()),
        ("rwcd", lambda mine: list(mine.list_blobs())),
        ("rdl", lambda mine: mine.upload_blob("c", b"x")),
        # Blocks need `w`; `c` is for Put Blob alone.
        ("rcdl", lambda mine: mine.get_blob_client("d").stage_block("aaaa", b"x")),
        ("rcdl", lambda mine: mine.get_blob_client("d").commit_block_list([])),
        ("rcdl", lambda mine: mine.get_blob_client("b").set_blob_metadata({})),
        ("rwcl", lambda mine: mine.delete_blob("b")),
    ):
        with raises(HttpResponseError, "AuthorizationPermissionMismatch", 403):
            attempt(server.with_sas(server.container_sas(container, permission), container))


@case
def sas_that_may_create_may_not_overwrite(server):
    container = server.container()
    mine = server.with_sas(server.container_sas(container, "c"), container, "b")
    mine.upload_blob(b"x")
    # "Blob Storage error codes": UnauthorizedBlobOverwrite. Azurite says what it says of any missing permission.
    code = "AuthorizationPermissionMismatch" if server.is_azurite else "UnauthorizedBlobOverwrite"
    with raises(HttpResponseError, code, 403):
        mine.upload_blob(b"y", overwrite=True)


@case
def sas_that_has_ended(server):
    container = server.container()
    container.upload_blob("b", b"x")
    sas = server.blob_sas(container, "b", "r", expiry=now() - timedelta(seconds=1))
    with not_authenticated(server) as refused:
        server.with_sas(sas, container, "b").download_blob()
    if not server.is_azurite:
        # Azurite does not say why.
        assert "AuthenticationErrorDetail" in str(refused.error) and "expired" in str(refused.error)


@case
def sas_that_has_not_begun(server):
    container = server.container()
    container.upload_blob("b", b"x")
    sas = server.blob_sas(container, "b", "r", start=now() + timedelta(minutes=5))
    with not_authenticated(server):
        server.with_sas(sas, container, "b").download_blob()


@case
def sas_with_a_wrong_signature(server):
    container = server.container()
    sas = generate_blob_sas(
        server.name, container.container_name, "b", account_key=base64.b64encode(b"another key").decode(),
        permission="r", expiry=in_an_hour(),
    )
    with not_authenticated(server):
        server.with_sas(sas, container, "b").download_blob()


@case
def sas_for_https_only(server):
    container = server.container()
    sas = server.blob_sas(container, "b", "r", protocol="https")
    with raises(HttpResponseError, "AuthorizationProtocolMismatch", 403):
        server.with_sas(sas, container, "b").download_blob()


@case
def sas_for_other_addresses(server):
    container = server.container()
    container.upload_blob("b", b"x")
    mine = server.blob_sas(container, "b", "r", ip="127.0.0.0-127.0.0.255")
    assert server.with_sas(mine, container, "b").download_blob().readall() == b"x"
    sas = server.blob_sas(container, "b", "r", ip="10.0.0.1")
    if server.is_azurite:
        # Azurite does not look at `sip`.
        server.with_sas(sas, container, "b").download_blob()
    else:
        with raises(HttpResponseError, "AuthorizationSourceIPMismatch", 403):
            server.with_sas(sas, container, "b").download_blob()


@case
def sas_replaces_headers_of_the_answer(server):
    container = server.container()
    container.upload_blob("b", b"x", content_settings=ContentSettings(content_type="a/b"))
    sas = server.blob_sas(container, "b", "r", content_type="c/d", content_disposition="inline")
    settings = server.with_sas(sas, container, "b").download_blob().properties.content_settings
    assert (settings.content_type, settings.content_disposition) == ("c/d", "inline")


@case
def no_credential(server):
    container = server.container()
    container.upload_blob("b", b"x")
    # "Status and error codes": 401, NoAuthenticationInformation. Azurite takes it for a signature that does not match.
    with not_authenticated(server) if server.is_azurite else raises(
        ClientAuthenticationError, "NoAuthenticationInformation", 401
    ):
        server.with_sas(None, container, "b").download_blob()


# Every answer


@case
def request_ids_come_back(server):
    mine, seen = str(uuid.uuid4()), Seen()
    server.service.get_account_information(client_request_id=mine, raw_response_hook=seen)
    assert seen.headers["x-ms-client-request-id"] == mine
    assert seen.headers["x-ms-request-id"] and seen.headers["x-ms-version"] and seen.headers["Date"]
    with raises(ResourceNotFoundError, "BlobNotFound", 404) as refused:
        server.container().get_blob_client("b").download_blob(client_request_id=mine)
    headers = refused.error.response.headers
    assert headers["x-ms-error-code"] == "BlobNotFound"
    # Azurite leaves it out of errors.
    assert headers.get("x-ms-client-request-id") == (None if server.is_azurite else mine)
    assert headers["x-ms-request-id"] in str(refused.error)


# What waybill-local refuses, and Azurite has


def refused_here(server, attempt):
    if server.is_azurite:
        attempt()
    else:
        with raises(HttpResponseError, "NotImplemented", 501) as refused:
            attempt()
        assert "waybill-local does not have" in str(refused.error)


@case
def leases_are_refused(server):
    container = server.container()
    container.upload_blob("b", b"x")
    refused_here(server, lambda: container.get_blob_client("b").acquire_lease())
    refused_here(server, lambda: container.acquire_lease())


@case
def snapshots_are_refused(server):
    container = server.container()
    container.upload_blob("b", b"x")
    refused_here(server, lambda: container.get_blob_client("b").create_snapshot())


@case
def copies_are_refused(server):
    container = server.container()
    container.upload_blob("b", b"x")
    source = container.get_blob_client("b").url
    refused_here(server, lambda: container.get_blob_client("c").start_copy_from_url(source))


@case
def append_and_page_blobs_are_refused(server):
    container = server.container()
    refused_here(server, lambda: container.get_blob_client("a").create_append_blob())
    refused_here(server, lambda: container.get_blob_client("p").create_page_blob(512))


@case
def tags_are_refused(server):
    container = server.container()
    container.upload_blob("b", b"x")
    refused_here(server, lambda: container.get_blob_client("b").set_blob_tags({"a": "b"}))
    refused_here(server, lambda: container.upload_blob("c", b"x", tags={"a": "b"}))


@case
def stored_access_policies_are_refused(server):
    container = server.container()
    refused_here(server, lambda: container.set_container_access_policy({}))


@case
def batches_are_refused(server):
    container = server.container()
    container.upload_blob("b", b"x")
    refused_here(server, lambda: list(container.delete_blobs("b")))


if __name__ == "__main__":
    run(Server(sys.argv[1]))
