"""Notices: a client is told when a resource that it follows changed, and when there are new ones.

Two protocol eras, one way: a stream of `subscriptions/listen` (2026-07-28) and a
connection that sent `resources/subscribe` (2025-11-25) each have an outbox. The
watcher puts notices in; a task of its own sends them. A notice says only "read it
again", so one that still waits to be sent is not put in twice, and a client that
reads slowly gets fewer, late ones and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    InMemorySubscriptionBus,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
)
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import event_matches, event_to_notification
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    EmptyResult,
    NotificationParams,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from tunesmith.data.store import DatasetStore
from tunesmith.database import Database
from tunesmith.errors import InvalidArgument, NotFound, UserError
from tunesmith.models.store import ModelStore
from tunesmith.runs.watching import Part, Stop, post
from tunesmith.tools.services import Services
from tunesmith.workspace import check_id

MOST_URIS = 256  # that one client follows; each costs a few looks at files
MOST_STREAMS = 1024
OUTBOX = "tunesmith.outbox"
# What of a run tells of which of its resources.
TELLING = {
    "": frozenset({Part.STATE, Part.PROGRESS}),
    "log": frozenset({Part.LOG}),
    "metrics": frozenset({Part.METRICS}),
    "loss.svg": frozenset({Part.METRICS}),
}
Context = ServerRequestContext[Any, Any]
T = TypeVar("T")


class Outbox:
    """What one client is still to be told, and what it follows. Belongs to the event loop it was made in."""

    def __init__(self, send: Callable[[ServerEvent], Awaitable[None]]) -> None:
        self.follows: dict[ServerEvent, Stop] = {}
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[ServerEvent, None] = {}
        self._news = anyio.Event()
        self._scope = anyio.CancelScope()

    def put(self, event: ServerEvent) -> None:
        self._waiting[event] = None
        self._news.set()

    def put_from_thread(self, event: ServerEvent) -> None:
        post(self._loop, self.put, event)

    async def deliver(self) -> None:
        """Send what is put in, in that order, until closed."""
        with self._scope:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                while self._waiting:
                    # Out before it is sent: a change while it is being sent is worth another notice.
                    event = next(iter(self._waiting))
                    del self._waiting[event]
                    await self._send(event)

    def close(self) -> None:
        """Follow nothing any more, send nothing any more."""
        for stop in self.follows.values():
            stop()
        self.follows.clear()
        self._scope.cancel()


class Notices:
    """The notices of one server. `install` is the way to make one."""

    def __init__(self, server: MCPServer[Any], services: Services, bus: InMemorySubscriptionBus) -> None:
        self._server = server
        self._workspace = services.workspace
        self._runs = services.runs
        self._watcher = services.watcher
        self._bus = bus
        self._streams = 0

    async def listen(self, ctx: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Serve one `subscriptions/listen`: acknowledge, then send notices until the client hangs up."""
        request_id = ctx.request_id
        if request_id is None:
            raise MCPError(INVALID_REQUEST, "subscriptions/listen needs a request id.")
        if self._streams >= MOST_STREAMS:
            raise MCPError(INTERNAL_ERROR, f"{MOST_STREAMS} clients listen already. Close one and listen again.")
        wanted = params.notifications
        uris = list(dict.fromkeys(wanted.resource_subscriptions or ()))
        honored = SubscriptionFilter(
            tools_list_changed=wanted.tools_list_changed or None,
            prompts_list_changed=wanted.prompts_list_changed or None,
            resources_list_changed=wanted.resources_list_changed or None,
            resource_subscriptions=uris or None,
        )
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: request_id}

        async def send(event: ServerEvent) -> None:
            await ctx.session.send_notification(event_to_notification(event, meta), related_request_id=request_id)

        def published(event: ServerEvent) -> None:
            if event_matches(honored, frozenset(uris), event):
                outbox.put(event)

        outbox = Outbox(send)
        self._streams += 1
        # Whatever else this server publishes; what the watcher sees does not go through the bus.
        leave_bus = self._bus.subscribe(published)
        try:
            await self._follow(outbox, uris, lists=bool(wanted.resources_list_changed))
            acknowledged = SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=meta)
            await ctx.session.send_notification(
                SubscriptionsAcknowledgedNotification(params=acknowledged), related_request_id=request_id
            )
            await outbox.deliver()
        finally:
            leave_bus()
            self._streams -= 1
            outbox.close()
        return SubscriptionsListenResult(_meta=meta)

    async def initialized(self, ctx: Context, _params: NotificationParams) -> None:
        """A client of the older era is there: it is told of new resources without asking for it."""
        await self._follow(self._outbox(ctx), [], lists=True)

    async def subscribe(self, ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
        """`resources/subscribe` of the older era."""
        await self._follow(self._outbox(ctx), [str(params.uri)], lists=False)
        return EmptyResult()

    async def unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        """`resources/unsubscribe` of the older era. What is not followed may be given up all the same."""
        uri = str(params.uri)
        stop = self._outbox(ctx).follows.pop(ResourceUpdated(uri), None)
        if stop is None:
            await self._check(uri)
        else:
            stop()
        return EmptyResult()

    async def declare(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Say in the older era's handshake that lists change; the SDK has no setting for it. A middleware."""
        result = await call_next(ctx)
        if ctx.method == "initialize" and isinstance(result, dict):
            result["capabilities"]["resources"]["listChanged"] = True
        return result

    def _outbox(self, ctx: Context) -> Outbox:
        """The outbox of a connection of the older era, made on first use, closed with the connection."""
        connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage] # no public way to its end
        outbox = connection.state.get(OUTBOX)
        if outbox is None:

            async def send(event: ServerEvent) -> None:
                if isinstance(event, ResourceUpdated):
                    await connection.send_resource_updated(event.uri)
                else:
                    await connection.send_resource_list_changed()

            outbox = connection.state[OUTBOX] = Outbox(send)
            connection.exit_stack.callback(outbox.close)
            ctx.lifespan_context.start_soon(outbox.deliver)
        return outbox

    async def _follow(self, outbox: Outbox, uris: Iterable[str], *, lists: bool) -> None:
        """Have changes put into an outbox from now on.

        Raises:
            MCPError: a URI is malformed or names nothing; the ones before it are followed.
        """
        if lists:
            await self._add(outbox, ResourcesListChanged(), partial(self._probe, "list", self._catalogue))
        for uri in uris:
            if len(outbox.follows) >= MOST_URIS:
                raise MCPError(INVALID_PARAMS, f"One client follows at most {MOST_URIS} resources.", {"uri": uri})
            await self._add(outbox, ResourceUpdated(uri), partial(self._follow_resource, uri))

    @staticmethod
    async def _add(outbox: Outbox, event: ServerEvent, follow: Callable[[Callable[[], None]], Awaitable[Stop]]) -> None:
        if event in outbox.follows:
            return
        stop = await follow(partial(outbox.put_from_thread, event))
        if event in outbox.follows:  # asked for twice at once
            stop()
        else:
            outbox.follows[event] = stop

    async def _follow_resource(self, uri: str, tell: Callable[[], None]) -> Stop:
        await self._check(uri)
        scheme, item, part = _split(uri)
        if scheme == "runs":
            row = await _in_thread(uri, self._runs.row, item)
            return self._watcher.follow(row, TELLING.get(part, frozenset(Part)), lambda _over: tell())
        look = self._look(scheme, item, part)
        return _nothing if look is None else await self._probe(uri, look, tell)

    async def _probe(self, key: str, look: Callable[[], Any], tell: Callable[[], None]) -> Stop:
        try:
            seen = await anyio.to_thread.run_sync(look)
        except UserError:
            seen = None  # the store cannot be read now: the first look that succeeds tells
        return self._watcher.probe(key, look, seen, tell)

    def _catalogue(self) -> tuple[int, ...]:
        """Changes whenever a run, a data set, a model or a comparison is new, whoever made it."""
        newest = ", ".join(
            f"(SELECT COALESCE(MAX(seq), 0) FROM {table})" for table in ("runs", "datasets", "models", "comparisons")
        )
        return tuple(self._workspace.database.read(f"SELECT {newest}")[0])

    def _look(self, scheme: str, item: str, part: str) -> Callable[[], object] | None:
        """What shows that a resource changed; None for one that never does, or of which nobody can tell."""
        database = self._workspace.database
        looks: dict[tuple[str, str], Callable[[], object]] = {
            ("datasets", "report"): partial(_stamp, self._workspace.datasets / item / "report.json"),
            ("models", "modelfile"): partial(_stamp, self._workspace.models / item / "Modelfile"),
            ("models", ""): lambda: _texts(database, "SELECT manifest FROM models WHERE id=?", item),
            # There once it is complete; people who score it change it.
            ("comparisons", "report"): lambda: _texts(database, "SELECT manifest FROM comparisons WHERE id=?", item),
            ("comparisons", ""): lambda: _texts(database, "SELECT manifest FROM comparisons WHERE id=?", item),
        }
        return looks.get((scheme, part))

    async def _check(self, uri: str) -> None:
        """Raise `MCPError` where a URI names no resource."""
        fixed = {resource.uri for resource in await MCPServer.list_resources(self._server)}
        templates = [found.uri_template for found in await self._server.list_resource_templates()]
        if uri not in fixed and not any(_parsed(template).match(uri) is not None for template in templates):
            error = NotFound(
                f"There is no resource {uri[:200]!r}.", next="Call resources/list or resources/templates/list."
            )
            raise MCPError(INVALID_PARAMS, str(error), {"uri": uri})
        scheme, item, _ = _split(uri)
        if scheme == "runs":
            return  # looked up when it is followed
        if scheme == "datasets":
            await _in_thread(uri, DatasetStore(self._workspace).get, item)
        elif scheme == "models":
            await _in_thread(uri, ModelStore(self._workspace).get, item)
        elif scheme == "comparisons":
            await _in_thread(uri, self._comparison, item)

    def _comparison(self, comparison_id: str) -> None:
        # One that is still being made has a folder only; it may well be waited for.
        if not (self._workspace.comparisons / check_id("cmp", comparison_id)).is_dir():
            raise NotFound(f"There is no comparison {comparison_id}.", next="Call list_runs(kind='compare').")


def install(server: MCPServer[Any], services: Services, bus: InMemorySubscriptionBus) -> None:
    """Have a server send notices. Its lifespan must be `lifespan`, and `bus` what it was made with."""
    notices = Notices(server, services, bus)
    low = server._lowlevel_server  # pyright: ignore[reportPrivateUsage] # the only place where handlers can be added
    low.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, notices.listen)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, notices.subscribe)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, notices.unsubscribe)
    low.add_notification_handler("notifications/initialized", NotificationParams, notices.initialized)
    server.middleware.append(notices.declare)


@asynccontextmanager
async def lifespan(server: MCPServer[Any]) -> AsyncIterator[anyio.abc.TaskGroup]:
    """The tasks that send notices to clients of the older era live as long as a transport does."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
            tasks.cancel_scope.cancel()
    finally:
        services: Services = server.services  # pyright: ignore[reportAttributeAccessIssue] # of TunesmithServer
        services.warm.release()


@cache
def _parsed(template: str) -> UriTemplate:
    return UriTemplate.parse(template)


def _split(uri: str) -> tuple[str, str, str]:
    """`runs://ID/log?cursor=0` as `("runs", ID, "log")`."""
    scheme, _, rest = uri.partition("://")
    item, _, part = rest.partition("?")[0].partition("/")
    return scheme, item, part


async def _in_thread(uri: str, call: Callable[[str], T], item: str) -> T:
    try:
        return await anyio.to_thread.run_sync(call, item)
    except (InvalidArgument, NotFound) as error:
        raise MCPError(INVALID_PARAMS, str(error), {"uri": uri}) from error
    except UserError as error:
        raise MCPError(INTERNAL_ERROR, str(error), {"uri": uri}) from error


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _texts(database: Database, sql: str, item: str) -> list[str]:
    return [row[0] for row in database.read(sql, (item,))]


def _nothing() -> None:
    """Nothing is followed, so there is nothing to stop."""
