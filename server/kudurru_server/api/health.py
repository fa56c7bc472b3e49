"""The standard health service, which does not hold up the end of the server."""

import asyncio

import grpc
from grpc_health.v1 import health, health_pb2

_LAST_STATUS_SECONDS = 0.1  # for NOT_SERVING to get to who watches


class Health(health.aio.HealthServicer):
    """Tells who asks, and who watches, whether the services serve."""

    def __init__(self, closing: asyncio.Event) -> None:
        super().__init__()
        self._closing = closing

    async def Watch(  # noqa: N802 - the RPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> None:
        """Stream the status whenever it changes; end when the server does, after NOT_SERVING."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((watching, closing), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((watching,), timeout=_LAST_STATUS_SECONDS)
        finally:
            closing.cancel()
            watching.cancel()
