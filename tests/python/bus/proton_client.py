"""Qpid Proton, an AMQP 1.0 client that knows nothing of Azure, judges `waybill-local`: a SAS is put on `$cbs` by hand,
and what goes over `$management` is written by hand too, as Azure's documentation has it.

usage: proton_client.py PLAN
"""
import asyncio
import contextlib
import sys

import proton_messages  # noqa: F401: each names its cases
import proton_namespace  # noqa: F401
import proton_settlement  # noqa: F401
import suite
from proton_bus import Context


if __name__ == "__main__":
    @contextlib.asynccontextmanager
    async def context(plan, operation):
        with contextlib.ExitStack() as stack:
            yield Context(plan, operation, stack)

    asyncio.run(suite.run(suite.Plan(sys.argv[1]), context))
