"""A third party in another language: gets its tokens from TenantService, receives waybills, reads their files.

usage: consume.py READY_FILE COUNT
Prints a JSON line per message: its properties, its body, and the plain bytes of its file as text.
"""
import gzip
import json
import sys
import urllib.request
from urllib.parse import urlsplit

from azure.servicebus import ServiceBusClient
from azure.storage.blob import BlobClient

with open(sys.argv[1], encoding="utf-8") as file:
    ready = json.load(file)
count = int(sys.argv[2])

request = urllib.request.Request(
    ready["tenantUrl"].rstrip("/") + "/api/external/integration/export/temporaryendpoints",
    headers={"Authorization": "Bearer " + ready["bearerToken"]},
)
with urllib.request.urlopen(request) as answer:
    grant = json.load(answer)
bus, blob = grant["serviceBus"], grant["blobStorage"]
topic, _, subscription = bus["entityPath"].split("/")
endpoint = "sb://" + urlsplit(bus["endpoint"]).netloc

connection = f"Endpoint={endpoint};SharedAccessSignature={bus['sasToken']};UseDevelopmentEmulator=true"
with ServiceBusClient.from_connection_string(connection) as client:
    with client.get_subscription_receiver(topic, subscription) as receiver:
        seen = 0
        while seen < count:
            messages = receiver.receive_messages(max_message_count=10, max_wait_time=20)
            if not messages:
                sys.exit(f"only {seen} of {count} messages came")
            for message in messages:
                body = json.loads(str(message))
                file = BlobClient.from_blob_url(body["uri"], credential=blob["sasToken"].lstrip("?"))
                data = file.download_blob().readall()
                if body.get("contentEncoding") == "gzip":
                    data = gzip.decompress(data)
                receiver.complete_message(message)
                properties = {k.decode(): v.decode() if isinstance(v, bytes) else v
                              for k, v in (message.application_properties or {}).items()}
                print(json.dumps({
                    "messageId": message.message_id,
                    "correlationId": message.correlation_id,
                    "subject": message.subject,
                    "contentType": message.content_type,
                    "applicationProperties": properties,
                    "body": body,
                    "file": data.decode(),
                }))
                seen += 1
