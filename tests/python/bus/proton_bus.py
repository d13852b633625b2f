"""Azure Service Bus as a plain AMQP client has to speak it: a SAS put on `$cbs`, requests to `$management`, settling."""
import contextlib
import threading
import time
import uuid

from proton import (
    Array,
    Condition,
    Data,
    Delivery,
    Message,
    SSLDomain,
    Terminus,
    Timeout,
    UNDESCRIBED,
    int32,
    symbol,
    timestamp,
)
from proton.reactor import AtLeastOnce, AtMostOnce, ReceiverOption, SenderOption
from proton.utils import BlockingConnection, LinkDetached

import suite
from blocking import in_thread
from suite import refused, same

# Longer than anything takes on a machine that is busy with other tests.
TIMEOUT_S = 40


def case(operation):
    """Names the operation that a function tries; it runs in a thread of its own."""
    def named(function):
        suite.case(operation)(lambda context: in_thread(function, context))
        return function
    return named


class ReplyTo(ReceiverOption):
    """The address that answers to a request go to."""

    def __init__(self, address):
        self.address = address

    def apply(self, receiver):
        receiver.target.address = self.address


class Coordinator(SenderOption):
    """Not an entity, but who keeps transactions."""

    def apply(self, sender):
        sender.target.type = Terminus.COORDINATOR


class Refused(Exception):
    """A request that `$cbs` or `$management` refused."""

    def __init__(self, status, text, condition=None):
        super().__init__(f"{status} {condition or ''} {text}")
        self.status, self.condition = status, condition


class Node:
    """A request node: one link to ask, one for the answers."""

    def __init__(self, connection, address):
        self.reply_to = f"reply-{uuid.uuid4()}"
        self.sender = connection.create_sender(address)
        self.receiver = connection.create_receiver(address, options=[ReplyTo(self.reply_to)])

    def ask(self, body, **properties):
        request = Message(body=body, properties=properties, reply_to=self.reply_to, id=str(uuid.uuid4()))
        self.sender.send(request)
        answer = self.receiver.receive(timeout=TIMEOUT_S)
        if self.receiver.fetcher.unsettled:
            self.receiver.accept()
        same(answer.correlation_id, request.id, "the answer's correlation id")
        return answer


class Bus:
    """A connection that has shown its SAS."""

    def __init__(self, plan, sas, audience, trust=None):
        self.plan = plan
        if trust is None:
            url, domain = f"amqp://{plan.host}", None
        else:
            url, domain = plan.tls["Endpoint"].replace("sb://", "amqps://"), SSLDomain(SSLDomain.MODE_CLIENT)
            domain.set_trusted_ca_db(trust)
            domain.set_peer_authentication(SSLDomain.VERIFY_PEER_NAME, trust)
        self.connection = BlockingConnection(url, timeout=TIMEOUT_S, allowed_mechs="ANONYMOUS", ssl_domain=domain)
        self.cbs = Node(self.connection, "$cbs")
        self.nodes = {}
        if sas is not None:
            self.put_token(sas, audience)

    def put_token(self, sas, audience):
        answer = self.cbs.ask(
            sas, operation="put-token", type="servicebus.windows.net:sastoken", name=f"amqp://{self.plan.host}/{audience}")
        status = answer.properties["status-code"]
        if status not in (200, 202):
            raise Refused(status, answer.properties["status-description"])

    def management(self, entity, operation, **body):
        node = self.nodes.get(entity) or Node(self.connection, f"{entity}/$management")
        self.nodes[entity] = node
        body = {name.replace("_", "-"): value for name, value in body.items()}
        answer = node.ask(body, operation=f"com.microsoft:{operation}")
        status = answer.properties["statusCode"]
        if status not in (200, 202, 204):
            condition = answer.properties.get("errorCondition")
            raise Refused(status, answer.properties["statusDescription"], condition)
        return owned(answer.body)

    def sender(self, entity, options=()):
        return self.connection.create_sender(entity, name=str(uuid.uuid4()), options=list(options))

    def receiver(self, entity, credit=1, delete=False, options=()):
        mode = AtMostOnce() if delete else AtLeastOnce()
        # Two links of one connection must not have one name.
        link = self.connection.create_receiver(entity, credit=credit, options=[mode, *options], name=str(uuid.uuid4()))
        return Receiver(self.connection, link)

    def close(self):
        with contextlib.suppress(Exception):
            self.connection.close()


class Receiver:
    """A link from an entity. `settle` waits for the broker's answer, as Azure wants it."""

    def __init__(self, connection, link):
        self.connection, self.link = connection, link

    def receive(self, timeout=TIMEOUT_S):
        message = self.link.receive(timeout=timeout)
        unsettled = self.link.fetcher.unsettled
        delivery = unsettled.pop() if unsettled else None
        return message, delivery

    def take(self, count):
        return [self.receive() for _ in range(count)]

    def nothing(self, seconds=0.5):
        with refused(Timeout):
            self.receive(timeout=seconds)

    def settle(self, delivery, state, **local):
        for name, value in local.items():
            setattr(delivery.local, name, value)
        delivery.update(state)
        self.connection.wait(lambda: delivery.settled, msg="the broker's answer", timeout=TIMEOUT_S)
        outcome, condition = delivery.remote_state, delivery.remote.condition
        delivery.settle()
        return outcome, condition and condition.name

    def complete(self, delivery):
        same(self.settle(delivery, Delivery.ACCEPTED), (Delivery.ACCEPTED, None), "the outcome")

    def close(self):
        self.link.close()


class Context:
    """What a case gets: its entity, and connections that end with it."""

    def __init__(self, plan, operation, stack):
        self.plan, self.entity, self._stack = plan, operation["entity"], stack
        self._own, self._lock = None, threading.Lock()

    def bus(self, sas=None, audience=None, trust=None):
        audience = self.entity if audience is None else audience
        bus = Bus(self.plan, sas or self.plan.sas(self.entity), audience, trust)
        return self._stack.enter_context(contextlib.closing(bus))

    @property
    def own(self):
        if self._own is None:
            self._own = self.bus()
        return self._own

    def sender(self, entity=None):
        return self.own.sender(entity or self.entity)

    def receiver(self, entity=None, **options):
        return self.own.receiver(entity or self.entity, **options)

    def dead(self, **options):
        return self.receiver(f"{self.entity}/$DeadLetterQueue", **options)

    def send(self, *bodies):
        sender = self.sender()
        for body in bodies:
            sender.send(Message(body=body, id=body))
        return sender

    def ask(self, operation, **body):
        return self.own.management(self.entity, operation, **body)

    def peek(self, sequence=0, count=10):
        answer = self.ask("peek-message", from_sequence_number=sequence, message_count=int32(count))
        return [decoded(message["message"]) for message in (answer or {}).get("messages", [])]

    def counts(self):
        return self.plan.counts_now(self.entity)

    def drained(self, entity=None):
        end = time.monotonic() + 20
        while True:
            counts = self.plan.counts_now(entity or self.entity)
            if counts["active"] + counts["locked"] + counts["deferred"] == 0:
                return
            assert time.monotonic() < end, f"the queue still holds messages: {counts}"
            time.sleep(0.05)


def decoded(encoded):
    message = Message()
    message.decode(encoded)
    return message


def owned(value):
    """Proton shows binary values in the memory of the message that they came with; these are copied out of it."""
    match value:
        case memoryview():
            return bytes(value)
        case dict():
            return {name: owned(inner) for name, inner in value.items()}
        case list():
            return [owned(inner) for inner in value]
    return value


def longs(numbers):
    return Array(UNDESCRIBED, Data.LONG, *numbers)


def uuids(tokens):
    return Array(UNDESCRIBED, Data.UUID, *tokens)


def sequence_of(message):
    return message.annotations["x-opt-sequence-number"]


def bodies(taken):
    return [message.body for message, _ in taken]


DEAD_LETTER = "com.microsoft:dead-letter"
LOCK_LOST = "com.microsoft:message-lock-lost"


def dead_letter(receiver, delivery, reason="bad", description="a long story", **more):
    info = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description, **more}
    condition = Condition(DEAD_LETTER, "", {symbol(name): value for name, value in info.items()})
    outcome = receiver.settle(delivery, Delivery.REJECTED, condition=condition)
    same(outcome, (Delivery.REJECTED, None), "the outcome")


@contextlib.contextmanager
def detached(condition, text=None):
    """The broker must detach the link with this condition."""
    try:
        yield
    except LinkDetached as error:
        same(error.condition, condition, "the condition")
        assert text is None or text in str(error).lower(), f"the error does not say {text!r}: {error}"
        return
    raise AssertionError(f"was not refused; wanted {condition}")


@contextlib.contextmanager
def answered(status, condition=None):
    """The request node must refuse with this status and condition."""
    try:
        yield
    except Refused as error:
        same((error.status, error.condition), (status, condition), "status and condition")
        return
    raise AssertionError(f"was not refused; wanted {status}")


def scheduled(c, due, *names):
    messages = [
        {"message-id": name, "message": Message(body=name, id=name, annotations={
            symbol("x-opt-scheduled-enqueue-time"): timestamp(int(due * 1000))}).encode()}
        for name in names]
    return list(c.ask("schedule-message", messages=messages)["sequence-numbers"].elements)
