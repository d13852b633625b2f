"""What the cases of both Python SDKs say in short."""
import datetime

from azure.servicebus import ServiceBusReceiveMode, ServiceBusSubQueue

DELETE = ServiceBusReceiveMode.RECEIVE_AND_DELETE
DEAD = ServiceBusSubQueue.DEAD_LETTER


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def in_seconds(seconds):
    return now() + datetime.timedelta(seconds=seconds)


def ids(messages):
    return [message.message_id for message in messages]


def text(value):
    """This SDK gives text in AMQP maps as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def properties(message):
    return {text(name): text(value) for name, value in (message.application_properties or {}).items()}
