"""Qpid Proton, an AMQP 1.0 client that knows nothing of Azure, judges `waybill-local`: a SAS is put on `$cbs` by hand,
and what goes over `$management` is written by hand too, as Azure's documentation has it.

usage: proton_client.py PLAN
"""
import asyncio
import contextlib
import sys
import threading
import time
import uuid

from proton import (
    Array, Condition, Data, Delivery, Described, Message, Timeout, UNDESCRIBED, int32, symbol, timestamp, ubyte, uint,
    ulong,
)
from proton.reactor import AtLeastOnce, AtMostOnce, Filter, ReceiverOption
from proton.utils import BlockingConnection, LinkDetached

import suite
from blocking import in_thread
from suite import refused, same

TIMEOUT_S = 20


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

    def __init__(self, plan, sas, audience):
        self.plan = plan
        self.connection = BlockingConnection(f"amqp://{plan.host}", timeout=TIMEOUT_S, allowed_mechs="ANONYMOUS")
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

    def sender(self, entity):
        return self.connection.create_sender(entity, name=str(uuid.uuid4()))

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

    def bus(self, sas=None, audience=None):
        audience = self.entity if audience is None else audience
        bus = Bus(self.plan, sas or self.plan.sas(self.entity), audience)
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


# Send ----------------------------------------------------------------------------------------------------------------

@case("send-one")
def send_one(c):
    c.sender().send(Message(body="hello", id="1"))
    receiver = c.receiver()
    message, delivery = receiver.receive()
    same((message.body, message.id), ("hello", "1"))
    receiver.complete(delivery)
    c.drained()


@case("send-empty-body")
def send_empty_body(c):
    c.sender().send(Message(body=b"", inferred=True, id="empty"))
    message, _ = c.receiver(delete=True).receive()
    same((message.body, message.id), (b"", "empty"))


@case("send-large")
def send_large(c):
    body = bytes(number * number % 251 for number in range(900_000))
    c.sender().send(Message(body=body, inferred=True))
    receiver = c.receiver()
    message, delivery = receiver.receive()
    assert message.body == body, "900 kB came back changed"
    receiver.complete(delivery)


@case("message-too-large")
def message_too_large(c):
    with detached("amqp:link:message-size-exceeded"):
        c.sender().send(Message(body=b"x" * 1_100_000, inferred=True))
    c.send("small")
    same(c.receiver(delete=True).receive()[0].body, "small", "the connection goes on")


@case("message-too-large-for-entity")
def message_too_large_for_entity(c):
    with detached("amqp:link:message-size-exceeded"):
        c.sender().send(Message(body=b"x" * 100_000, inferred=True))
    c.send("small")
    same(c.receiver(delete=True).receive()[0].body, "small", "the connection goes on")


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


@case("schedule")
def schedule(c):
    receiver, due = c.receiver(delete=True), time.time() + 3
    [number] = scheduled(c, due, "later")
    assert number > 0, f"sequence number {number}"
    receiver.nothing()
    same(receiver.receive()[0].body, "later")
    assert time.time() >= due - 0.05, "came before it was due"


@case("schedule-many")
def schedule_many(c):
    same(len(set(scheduled(c, time.time() + 3, "a", "b", "c"))), 3, "different sequence numbers")
    same(bodies(c.receiver(delete=True).take(3)), ["a", "b", "c"])


@case("schedule-cancel")
def schedule_cancel(c):
    _, drop = scheduled(c, time.time() + 4, "keep", "drop")
    c.ask("cancel-scheduled-message", sequence_numbers=longs([drop]))
    same([message.body for message in c.peek()], ["keep"], "what is still scheduled")
    receiver = c.receiver(delete=True)
    same(receiver.receive()[0].body, "keep")
    receiver.nothing()


@case("schedule-by-property")
def schedule_by_property(c):
    due = time.time() + 2
    later = Message(body="later", annotations={symbol("x-opt-scheduled-enqueue-time"): timestamp(int(due * 1000))})
    sender, receiver = c.sender(), c.receiver(delete=True)
    sender.send(later)
    sender.send(Message(body="now"))
    same(bodies(receiver.take(2)), ["now", "later"])
    assert time.time() >= due - 0.05, "came before it was due"


@case("peek-scheduled")
def peek_scheduled(c):
    due = int(time.time() + 600)
    scheduled(c, due, "later")
    [message] = c.peek()
    annotations = message.annotations
    same((message.body, annotations["x-opt-message-state"], annotations["x-opt-scheduled-enqueue-time"]),
         ("later", 2, due * 1000))


@case("duplicate-detection")
def duplicate_detection(c):
    c.send("a", "a", "b", "a")
    receiver = c.receiver(delete=True)
    same(bodies(receiver.take(2)), ["a", "b"])
    receiver.nothing()
    c.send("a", "c")
    same(receiver.receive()[0].body, "c", "an id is remembered when its message is gone")


# Properties ----------------------------------------------------------------------------------------------------------

@case("message-properties")
def message_properties(c):
    sent = dict(id="id-1", user_id=b"user", address="to", subject="subject", reply_to="reply", correlation_id="correlation",
                content_type="text/plain", content_encoding="gzip", group_id="group", group_sequence=7,
                reply_to_group_id="reply-group", creation_time=1_700_000_000.0, ttl=180.0, durable=True, priority=7)
    c.sender().send(Message(body="body", **sent))
    message, _ = c.receiver().receive()
    same({name: getattr(message, name) for name in sent}, sent)


@case("application-properties")
def application_properties(c):
    sent = {
        "text": "ä text", "empty": "", "yes": True, "no": False, "byte": ubyte(200), "int": int32(-7), "uint": uint(7),
        "long": 1 << 40, "ulong": ulong(1 << 63), "double": 1.5, "when": timestamp(1_700_000_000_123),
        "uuid": uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "binary": b"\0\xff", "symbol": symbol("sym"), "null": None,
    }
    c.sender().send(Message(body="body", properties=sent))
    message, _ = c.receiver(delete=True).receive()
    received = {**message.properties, "binary": bytes(message.properties["binary"])}
    same(received, sent)
    same({name: type(value) for name, value in received.items()},
         {name: type(value) for name, value in sent.items()}, "types")


@case("body-data")
def body_data(c):
    c.sender().send(Message(body=b"\0one\xff", inferred=True))
    message, _ = c.receiver(delete=True).receive()
    same((message.body, message.inferred), (b"\0one\xff", True))


@case("body-sequence")
def body_sequence(c):
    c.sender().send(Message(body=["a", 1, ["b", 2]], inferred=True))
    message, _ = c.receiver(delete=True).receive()
    same((message.body, message.inferred), (["a", 1, ["b", 2]], True))


@case("body-value")
def body_value(c):
    c.sender().send(Message(body={"name": "shoe", "sizes": [41, 42]}))
    message, _ = c.receiver(delete=True).receive()
    same((message.body, message.inferred), ({"name": "shoe", "sizes": [41, 42]}, False))


@case("annotated-message")
def annotated_message(c):
    c.sender().send(Message(body="body", durable=True, priority=7, annotations={symbol("x-mine"): "kept"}))
    message, _ = c.receiver(delete=True).receive()
    same((message.durable, message.priority, message.annotations["x-mine"]), (True, 7, "kept"))


@case("broker-properties")
def broker_properties(c):
    before = time.time() - 2
    c.send("a", "b")
    (first, _), (second, _) = c.receiver(credit=2).take(2)
    same(sequence_of(second), sequence_of(first) + 1, "sequence numbers follow each other")
    same((first.delivery_count, first.first_acquirer), (0, True), "delivery count")
    assert before <= first.annotations["x-opt-enqueued-time"] / 1000 <= time.time() + 3, "enqueued time"
    assert first.annotations["x-opt-locked-until"] / 1000 > time.time(), "locked until"
    tokens = [message.instructions["x-opt-lock-token"] for message in (first, second)]
    assert isinstance(tokens[0], uuid.UUID) and tokens[0] != tokens[1], "lock tokens"


# Receive -------------------------------------------------------------------------------------------------------------

@case("receive-peek-lock")
def receive_peek_lock(c):
    c.send("a")
    first, second = c.receiver(), c.receiver()
    _, delivery = first.receive()
    second.nothing()
    same(c.counts()["locked"], 1, "locked messages")
    first.complete(delivery)
    c.drained()


@case("receive-and-delete")
def receive_and_delete(c):
    c.send("a", "b")
    same(bodies(c.receiver(delete=True).take(2)), ["a", "b"])
    c.drained()


@case("receive-wait")
def receive_wait(c):
    c.receiver().nothing(seconds=1)


@case("receive-what-is-there")
def receive_what_is_there(c):
    c.send("a", "b", "c")
    receiver = c.receiver(credit=100, delete=True)
    same(bodies(receiver.take(3)), ["a", "b", "c"])
    # Drained, the broker takes the credit that is left.
    link = receiver.link.link
    link.drain(0)
    c.own.connection.wait(lambda: not link.draining(), msg="the end of the drain", timeout=TIMEOUT_S)
    same(link.credit, 0, "credit after the drain")


@case("receive-late")
def receive_late(c):
    waiting = c.bus().receiver(c.entity, delete=True)
    timer = threading.Timer(0.5, c.send, ["a"])
    timer.start()
    same(waiting.receive()[0].body, "a")
    timer.join()


@case("prefetch")
def prefetch(c):
    c.send(*(str(number) for number in range(20)))
    receiver = c.receiver(credit=10)
    taken = [receiver.receive()]
    fetched = receiver.link.fetcher
    c.own.connection.wait(lambda: len(fetched.incoming) >= 9, msg="messages that nobody asked for", timeout=TIMEOUT_S)
    taken += receiver.take(19)
    same(bodies(taken), [str(number) for number in range(20)])
    for _, delivery in taken:
        receiver.complete(delivery)
    c.drained()


@case("iterate")
def iterate(c):
    c.send("a", "b", "c")
    receiver, seen = c.receiver(), []
    with refused(Timeout):
        while True:
            message, delivery = receiver.receive(timeout=1)
            seen.append(message.body)
            receiver.complete(delivery)
    same(seen, ["a", "b", "c"])
    c.drained()


@case("in-order")
def in_order(c):
    wanted = [str(number) for number in range(500)]
    link = c.sender().link
    deliveries = [link.send(Message(body=name)) for name in wanted]
    c.own.connection.wait(lambda: all(delivery.settled for delivery in deliveries), msg="sends", timeout=TIMEOUT_S)
    same(bodies(c.receiver(credit=500, delete=True).take(500)), wanted)


@case("competing-receivers")
def competing_receivers(c):
    wanted = [f"{number:02}" for number in range(60)]
    c.send(*wanted)
    first, second = c.receiver(), c.bus().receiver(c.entity)
    seen = []
    for receiver in (first, second) * 30:
        message, delivery = receiver.receive()
        seen.append(message.body)
        receiver.complete(delivery)
    same(sorted(seen), wanted, "each message once")
    c.drained()


@case("many-receivers")
def many_receivers(c):
    receivers = [c.receiver() for _ in range(100)]
    c.send(*(f"{number:02}" for number in range(100)))
    seen = []
    for receiver in receivers:
        message, delivery = receiver.receive()
        seen.append(message.body)
        receiver.complete(delivery)
    same(sorted(seen), [f"{number:02}" for number in range(100)])
    c.drained()


@case("close-while-receiving")
def close_while_receiving(c):
    c.receiver(credit=10).close()
    c.send("a")
    same(c.receiver(delete=True).receive()[0].body, "a")


# Settle --------------------------------------------------------------------------------------------------------------

@case("complete")
def complete(c):
    c.send("a", "b")
    receiver = c.receiver()
    receiver.complete(receiver.receive()[1])
    # Settled at once, as AMQP allows: nothing is answered, and it holds all the same.
    _, delivery = receiver.receive()
    delivery.update(Delivery.ACCEPTED)
    delivery.settle()
    c.peek()  # a round trip, which takes the settlement along
    c.drained()
    same(c.counts()["totals"]["completed"], 2)


@case("abandon")
def abandon(c):
    c.send("a")
    receiver = c.receiver()
    for count in range(3):
        message, delivery = receiver.receive()
        same((message.body, message.delivery_count, message.first_acquirer), ("a", count, count == 0))
        same(receiver.settle(delivery, Delivery.MODIFIED, failed=True), (Delivery.MODIFIED, None))


@case("abandon-with-properties")
def abandon_with_properties(c):
    c.sender().send(Message(body="a", properties={"kept": 1, "changed": 1}))
    receiver = c.receiver()
    _, delivery = receiver.receive()
    receiver.settle(delivery, Delivery.MODIFIED, annotations={symbol("changed"): 2, symbol("added"): "new"})
    same(receiver.receive()[0].properties, {"kept": 1, "changed": 2, "added": "new"})


@case("release")
def release(c):
    c.send("a")
    receiver = c.receiver()
    for _ in range(3):
        message, delivery = receiver.receive()
        same((message.body, message.delivery_count), ("a", 0), "released does not count")
        same(receiver.settle(delivery, Delivery.RELEASED), (Delivery.RELEASED, None))


def deferred(c, receiver, **local):
    message, delivery = receiver.receive()
    same(receiver.settle(delivery, Delivery.MODIFIED, undeliverable=True, **local), (Delivery.MODIFIED, None))
    return sequence_of(message)


def receive_deferred_messages(c, numbers, mode=1):
    answer = c.ask("receive-by-sequence-number", sequence_numbers=longs(numbers), receiver_settle_mode=uint(mode))
    return [(decoded(entry["message"]), entry.get("lock-token")) for entry in answer["messages"]]


@case("defer")
def defer(c):
    c.send("a", "b")
    receiver = c.receiver()
    deferred(c, receiver)
    same(receiver.receive()[0].body, "b", "a deferred message is not delivered")
    peeked = c.peek()[0]
    same((peeked.body, peeked.annotations["x-opt-message-state"]), ("a", 1))


@case("defer-with-properties")
def defer_with_properties(c):
    c.send("a")
    number = deferred(c, c.receiver(), annotations={symbol("why"): "too early"})
    [(message, _)] = receive_deferred_messages(c, [number])
    same(message.properties, {"why": "too early"})


@case("receive-deferred")
def receive_deferred(c):
    c.send("a", "b")
    receiver = c.receiver()
    taken = receive_deferred_messages(c, [deferred(c, receiver), deferred(c, receiver)])
    same(sorted(message.body for message, _ in taken), ["a", "b"])
    c.ask("update-disposition", disposition_status="completed", lock_tokens=uuids([token for _, token in taken]))
    c.drained()


@case("settle-deferred")
def settle_deferred(c):
    c.send("abandoned", "defered", "suspended", "completed")
    receiver = c.receiver()
    numbers = [deferred(c, receiver) for _ in range(4)]
    for message, token in receive_deferred_messages(c, numbers):
        more = {"deadletter-reason": "why", "deadletter-description": "because"} if message.body == "suspended" else {}
        c.ask("update-disposition", disposition_status=message.body, lock_tokens=uuids([token]), **more)
    same(sorted(message.body for message, _ in receive_deferred_messages(c, numbers[:2])), ["abandoned", "defered"])
    message, _ = c.dead().receive()
    same((message.body, message.properties),
         ("suspended", {"DeadLetterReason": "why", "DeadLetterErrorDescription": "because"}))


@case("receive-deferred-and-delete")
def receive_deferred_and_delete(c):
    c.send("a")
    [(message, token)] = receive_deferred_messages(c, [deferred(c, c.receiver())], mode=0)
    same((message.body, token), ("a", None))
    c.drained()


@case("deferred-not-found")
def deferred_not_found(c):
    with answered(404, "com.microsoft:message-not-found"):
        receive_deferred_messages(c, [4711])


@case("dead-letter")
def dead_letter_one(c):
    c.send("a")
    receiver = c.receiver()
    dead_letter(receiver, receiver.receive()[1])
    receiver.nothing()
    message, _ = c.dead().receive()
    same((message.body, message.properties),
         ("a", {"DeadLetterReason": "bad", "DeadLetterErrorDescription": "a long story"}))


@case("dead-letter-with-properties")
def dead_letter_with_properties(c):
    c.sender().send(Message(body="a", properties={"kept": 1}))
    receiver = c.receiver()
    dead_letter(receiver, receiver.receive()[1], more="detail")
    properties = c.dead().receive()[0].properties
    same((properties["kept"], properties["more"], properties["DeadLetterReason"]), (1, "detail", "bad"))


# Dead-letter queue ---------------------------------------------------------------------------------------------------

@case("dead-letter-queue")
def dead_letter_queue(c):
    c.send("a", "b")
    receiver, dead = c.receiver(), c.dead()
    for name in ("a", "b"):
        dead_letter(receiver, receiver.receive()[1])
        message, delivery = dead.receive()
        same((message.body, message.annotations["x-opt-deadletter-source"]), (name, c.entity))
        dead.complete(delivery)
    dead.nothing()


@case("dead-letter-queue-abandon")
def dead_letter_queue_abandon(c):
    c.send("a")
    receiver, dead = c.receiver(), c.dead()
    dead_letter(receiver, receiver.receive()[1])
    counts = []
    for _ in range(4):
        message, delivery = dead.receive()
        counts.append(message.delivery_count)
        dead.settle(delivery, Delivery.MODIFIED, failed=True)
    same([count - counts[0] for count in counts], [0, 1, 2, 3], "there is no maximum on a dead-letter queue")


@case("dead-letter-resubmit")
def dead_letter_resubmit(c):
    sender, receiver = c.send("a"), c.receiver()
    dead_letter(receiver, receiver.receive()[1])
    dead = c.dead()
    message, delivery = dead.receive()
    sender.send(Message(body=message.body, id="a-again"))
    dead.complete(delivery)
    message, _ = receiver.receive()
    same((message.id, message.body, message.delivery_count), ("a-again", "a", 0))


@case("max-delivery-count")
def max_delivery_count(c):
    c.send("a")
    receiver = c.receiver()
    for _ in range(3):
        receiver.settle(receiver.receive()[1], Delivery.MODIFIED, failed=True)
    message, _ = c.dead().receive()
    same((message.body, message.properties["DeadLetterReason"]), ("a", "MaxDeliveryCountExceeded"))


@case("time-to-live")
def time_to_live(c):
    sender = c.sender()
    sender.send(Message(body="short", ttl=1))
    sender.send(Message(body="long"))
    end = time.monotonic() + TIMEOUT_S
    while c.counts()["active"] != 1:
        assert time.monotonic() < end, "the message did not end"
        time.sleep(0.05)
    same(c.receiver(delete=True).receive()[0].body, "long")
    c.dead().nothing()


@case("time-to-live-dead-letter")
def time_to_live_dead_letter(c):
    c.sender().send(Message(body="short", ttl=1))
    message, _ = c.dead().receive()
    same((message.body, message.properties["DeadLetterReason"]), ("short", "TTLExpiredException"))


@case("time-to-live-of-entity")
def time_to_live_of_entity(c):
    sender = c.sender()
    sender.send(Message(body="none"))
    sender.send(Message(body="more", ttl=3600))
    same([message.ttl for message in c.peek()], [2, 2], "the life that a receiver sees")
    same([(message.body, message.properties["DeadLetterReason"]) for message, _ in c.dead().take(2)],
         [("none", "TTLExpiredException"), ("more", "TTLExpiredException")])


# Locks and peeking ---------------------------------------------------------------------------------------------------

@case("lock-renew")
def lock_renew(c):
    c.send("a")
    receiver = c.receiver()
    message, delivery = receiver.receive()
    token, first = message.instructions["x-opt-lock-token"], message.annotations["x-opt-locked-until"]
    while time.time() < first / 1000 + 1:
        time.sleep(0.5)
        [until] = c.ask("renew-lock", lock_tokens=uuids([token]))["expirations"].elements
        assert until > first, "a lock that lasts longer"
    receiver.complete(delivery)
    c.drained()


@case("lock-expires")
def lock_expires(c):
    c.send("a")
    (first, _), (second, _) = c.receiver(credit=2).take(2)
    same([(message.body, message.delivery_count) for message in (first, second)], [("a", 0), ("a", 1)])


@case("lock-lost-settling")
def lock_lost_settling(c):
    c.send("a")
    receiver = c.receiver()
    _, delivery = receiver.receive()
    c.plan.admin("POST", "/faults", {"faults": [{"on": "now", "do": "lose_lock", "entity": c.entity}]})
    same(receiver.settle(delivery, Delivery.ACCEPTED), (Delivery.REJECTED, LOCK_LOST))


@case("lock-lost-renewing")
def lock_lost_renewing(c):
    with answered(410, LOCK_LOST):
        c.ask("renew-lock", lock_tokens=uuids([uuid.uuid4()]))


@case("peek")
def peek(c):
    c.send("a", "b", "c")
    same([message.body for message in c.peek(count=2)], ["a", "b"])
    same([message.body for message in c.peek(count=2)], ["a", "b"], "peeking takes nothing")
    same([message.delivery_count for message, _ in c.receiver(credit=3).take(3)], [0, 0, 0])


@case("peek-from")
def peek_from(c):
    c.send("a", "b", "c")
    second = sequence_of(c.peek()[1])
    same([message.body for message in c.peek(second)], ["b", "c"])
    same(c.peek(second + 2), [])


@case("peek-nothing")
def peek_nothing(c):
    same(c.peek(), [])


@case("peek-locked")
def peek_locked(c):
    c.send("a", "b")
    c.receiver().receive()
    same([message.body for message in c.peek()], ["a", "b"], "a locked message is seen too")


# Topics --------------------------------------------------------------------------------------------------------------

@case("fan-out")
def fan_out(c):
    c.send("one", "two", "three")
    for name in ("s1", "s2"):
        entity = f"{c.entity}/Subscriptions/{name}"
        receiver = c.receiver(entity)
        for wanted in ("one", "two", "three"):
            message, delivery = receiver.receive()
            same(message.body, wanted, name)
            receiver.complete(delivery)
        c.drained(entity)


@case("subscription-dead-letter-queue")
def subscription_dead_letter_queue(c):
    c.send("one")
    entity = f"{c.entity}/Subscriptions/s1"
    receiver = c.receiver(entity)
    dead_letter(receiver, receiver.receive()[1])
    message, _ = c.receiver(f"{entity}/$DeadLetterQueue").receive()
    same((message.body, message.properties["DeadLetterReason"]), ("one", "bad"))
    same(c.receiver(f"{c.entity}/Subscriptions/s2").receive()[0].body, "one", "the other subscription has its own")


@case("topic-schedule")
def topic_schedule(c):
    _, drop = scheduled(c, time.time() + 3, "keep", "drop")
    c.ask("cancel-scheduled-message", sequence_numbers=longs([drop]))
    for name in ("s1", "s2"):
        receiver = c.receiver(f"{c.entity}/Subscriptions/{name}", delete=True)
        same(receiver.receive()[0].body, "keep", name)
        receiver.nothing()


# Security ------------------------------------------------------------------------------------------------------------

UNAUTHORIZED = "amqp:unauthorized-access"


def round_trip(c, bus, name="a"):
    bus.sender(c.entity).send(Message(body=name))
    same(bus.receiver(c.entity, delete=True).receive()[0].body, name)


@case("sas-of-namespace")
def sas_of_namespace(c):
    round_trip(c, c.bus(c.plan.sas(), audience=""))


@case("sas-of-entity")
def sas_of_entity(c):
    round_trip(c, c.bus(c.plan.sas(c.entity)))


@case("wrong-key")
def wrong_key(c):
    with answered(401):
        c.bus(c.plan.sas(c.entity, key="wrong"))


@case("wrong-key-name")
def wrong_key_name(c):
    with answered(401):
        c.bus(c.plan.sas(c.entity, key_name="Nobody"))


@case("wrong-audience")
def wrong_audience(c):
    with answered(401):
        c.bus(c.plan.sas("another-queue"))
    # Put for the queue that it is good for, it opens no other.
    bus = c.bus(c.plan.sas("another-queue"), audience="another-queue")
    with detached(UNAUTHORIZED):
        bus.sender(c.entity)
    with detached(UNAUTHORIZED):
        bus.receiver(c.entity)


@case("expired-token")
def expired_token(c):
    with answered(401):
        c.bus(c.plan.sas(c.entity, life_s=-60))


@case("no-token")
def no_token(c):
    with contextlib.closing(Bus(c.plan, None, None)) as bus, detached(UNAUTHORIZED):
        bus.sender(c.entity)


@case("token-renewed")
def token_renewed(c):
    bus = c.bus(c.plan.sas(c.entity, life_s=3))
    sender, receiver = bus.sender(c.entity), bus.receiver(c.entity)
    for number in range(8):
        bus.put_token(c.plan.sas(c.entity, life_s=3), c.entity)
        sender.send(Message(body=str(number)))
        message, delivery = receiver.receive()
        same(message.body, str(number))
        receiver.complete(delivery)
        time.sleep(0.7)
    c.drained()


@case("token-expires")
def token_expires(c):
    receiver = c.bus(c.plan.sas(c.entity, life_s=2)).receiver(c.entity)
    with detached(UNAUTHORIZED):
        receiver.receive()


# Errors --------------------------------------------------------------------------------------------------------------

@case("entity-not-found")
def entity_not_found(c):
    bus = c.bus(c.plan.sas(), audience="")
    with detached("amqp:not-found"):
        bus.sender("nowhere")
    with detached("amqp:not-found"):
        bus.receiver("nowhere")


@case("session-refused")
def session_refused(c):
    name = symbol("com.microsoft:session-filter")
    with detached("amqp:not-allowed", text="session"):
        c.receiver(options=[Filter({name: Described(name, "one")})])


if __name__ == "__main__":
    @contextlib.asynccontextmanager
    async def context(plan, operation):
        with contextlib.ExitStack() as stack:
            yield Context(plan, operation, stack)

    asyncio.run(suite.run(suite.Plan(sys.argv[1]), context))
