"""A publisher of another house: Microsoft's SDKs, nothing of ours.

usage: publish.py READY_FILE BLOB_TYPE FILE CONTENT_TYPE
Uploads FILE (gzip) and sends its waybill to the topic. Prints the blob's address.
"""
import gzip
import json
import sys
import uuid

from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.storage.blob import BlobServiceClient, ContentSettings

ready_file, blob_type, path, content_type = sys.argv[1:]
with open(ready_file, encoding="utf-8") as file:
    ready = json.load(file)
with open(path, "rb") as file:
    data = gzip.compress(file.read())

correlation_id = str(uuid.uuid4())
name = f"{blob_type}/2022-07-05/{correlation_id}-{uuid.uuid4()}.gz"
storage = BlobServiceClient.from_connection_string(ready["blobConnectionString"])
blob = storage.get_blob_client(ready["container"], name)
blob.upload_blob(data, content_settings=ContentSettings(content_type=content_type))

waybill = {
    "blobType": blob_type,
    "correlationId": correlation_id,
    "contentType": content_type,
    "contentEncoding": "gzip",
    "uri": blob.url,
    "properties": {},
}
with ServiceBusClient.from_connection_string(ready["serviceBusConnectionString"]) as bus:
    with bus.get_topic_sender(ready["topic"]) as sender:
        sender.send_messages(ServiceBusMessage(json.dumps(waybill), content_type="application/json"))
print(blob.url)
