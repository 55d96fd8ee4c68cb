"""`tunesmith serve-model`: a model behind an OpenAI-compatible address, until Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.errors import Conflict, InvalidArgument, NotSupported, ServiceFailed

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from tunesmith.models.servable import Servable
    from tunesmith.models.serving import Served
    from tunesmith.workspace import Workspace

KEY_VARIABLE = "TUNESMITH_SERVE_API_KEY"
LOOK_INTERVAL_S = 0.5
GRACE_S = 1  # for answers that are under way when the server is told to end
MOST_SLOTS = 64


def serve_model(  # noqa: PLR0917 - typer passes options by name
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="run_…, mdl_…, embedded, or the path of a GGUF of such a model.")
    ],
    host: Annotated[str, typer.Option(help="The address to listen on. Beyond this machine a key is needed.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one, which is printed.")] = 8080,
    quantization: Annotated[
        str | None, typer.Option(help="Which exported file; default: q4_k_m if there is one.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=64, help="Tokens of prompt and answer together; default: as trained.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, max=MOST_SLOTS, help="Requests answered at once.")] = 2,
    threads: Annotated[int | None, typer.Option(min=1, help="Of llama.cpp; default: the idle cores but one.")] = None,
    name: Annotated[str | None, typer.Option(help="By which clients ask for it; default: the model's.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=KEY_VARIABLE, show_envvar=True, help="That clients must send. Better given in the variable."
        ),
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            metavar="DIR",
            help="Where the models lie; default: TUNESMITH_WORKSPACE, or your data folder.",
        ),
    ] = None,
) -> None:
    """Serve a model at an OpenAI-compatible address, with the very prompt it was trained on."""
    from tunesmith.models.openai_api.app import LOOPBACK, Serving, build_app
    from tunesmith.models.serving import Served
    from tunesmith.server.settings import Settings
    from tunesmith.workspace import Workspace

    key = (api_key or "").strip() or None
    if host not in LOOPBACK and key is None:
        raise InvalidArgument(
            f"{host} can be reached from other machines, and there is no key.",
            next=f"Set {KEY_VARIABLE} to a secret of yours, or use --host 127.0.0.1.",
        )
    settings = Settings(**({"workspace": workspace} if workspace else {}))
    place = Workspace(settings.workspace_folder(), settings.roots())
    one = _find(place, model, quantization)
    tokens = _context(one, context)
    served_name = _name(one, name)
    one.encode_text("")  # a tokenizer that is not there is told now, not to the first client
    try:
        with (
            _unwinding(),
            closing(_bound(host, port)) as door,
            Served(one.gguf, context=tokens, slots=slots, threads=threads) as served,
        ):
            url = f"http://{f'[{host}]' if ':' in host else host}:{door.getsockname()[1]}/v1"
            serving = Serving(
                one=one,
                name=served_name,
                others=[one.record.model_id, one.record.run_id or ""] if one.record else ["embedded"],
                url=served.base_url.removesuffix("/v1"),
                context=served.context,
                slots=slots,
                defaults=_defaults(),
                key=key,
                hosts=(*LOOPBACK, host) if host in LOOPBACK else None,
            )
            print(_opening(one, served, served_name, url, key), flush=True)
            _serve(build_app(serving), door, served)
    except KeyboardInterrupt:
        print("Ended.", flush=True)


@contextmanager
def _unwinding() -> Iterator[None]:
    """Told to end in whatever way, the process unwinds, and llama.cpp ends with it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _find(workspace: Workspace, model: str, quantization: str | None) -> Servable:
    from tunesmith.models.references import parse_reference
    from tunesmith.models.servable import servable

    if model.lower().endswith(".gguf"):
        return _by_file(workspace, Path(model), quantization)
    reference = parse_reference(model, workspace)
    if reference.kind in ("ollama", "openai"):
        raise NotSupported(
            f"{model[:80]!r} is served already.", next="Use its own address, or name a model trained here."
        )
    if reference.kind in ("hub", "folder"):
        raise NotSupported(
            f"{model[:80]!r} is no GGUF, and llama.cpp serves nothing else.",
            next="Name a model trained here (run_…, mdl_…) that was exported with export_gguf, or embedded.",
        )
    return servable(workspace, reference, quantization)


def _by_file(workspace: Workspace, path: Path, quantization: str | None) -> Servable:
    """The trained model whose file it is: another GGUF does not say on which prompt it was trained."""
    from tunesmith.models.references import parse_reference
    from tunesmith.models.servable import servable
    from tunesmith.models.store import ModelStore

    try:
        inside = path.expanduser().resolve(strict=True).relative_to(workspace.models)
    except FileNotFoundError:
        raise InvalidArgument(
            f"There is no file {str(path)!r}.", next="Give a model's id, or the path of its GGUF."
        ) from None
    except ValueError:
        inside = None
    if inside is None or len(inside.parts) < 2:
        raise NotSupported(
            f"{str(path)!r} is no file of a model in the workspace {workspace.root}, so the prompt it was trained on "
            "is not known.",
            next="Name a model trained here, or serve the file with llama-server, which reads its chat template.",
        )
    record = ModelStore(workspace).get(inside.parts[0])
    for file in record.files:
        if file.path == "/".join(inside.parts[1:]) and file.kind == "gguf":
            return servable(workspace, parse_reference(record.model_id, workspace), quantization or file.quantization)
    raise InvalidArgument(
        f"{inside.name} is not a whole model of {record.model_id}.",
        next=f"Use {record.model_id}, or another file of it.",
    )


def _context(one: Servable, wanted: int | None) -> int:
    from tunesmith.export.modelfile import default_parameters
    from tunesmith.models.gguf_file import context_of

    most = context_of(one.gguf)
    if wanted is not None and most is not None and wanted > most:
        raise InvalidArgument(
            f"--context {wanted} is more than the {most} tokens that this model takes.", next=f"Use --context {most}."
        )
    trained = one.record.recipe.get("max_length") if one.record else None
    return wanted or int(default_parameters(trained, most)["num_ctx"])


def _defaults() -> dict[str, float]:
    """Sampling where a request says nothing: as the Modelfile has it, so that Ollama answers alike."""
    from tunesmith.export.modelfile import DEFAULT_PARAMETERS

    return {**DEFAULT_PARAMETERS, "min_p": 0.0}


def _name(one: Servable, wanted: str | None) -> str:
    if wanted is None:
        said = one.record.name if one.record else "embedded"
        plain = re.sub(r"[^\w.-]+", "-", said).strip("-.")
        return plain or (one.record.model_id if one.record else said)
    if not re.fullmatch(r"[\w][\w.:/+-]{0,199}", wanted):
        raise InvalidArgument(
            f"--name {wanted[:60]!r} cannot be asked for everywhere.", next="Use letters, digits, dots and dashes."
        )
    return wanted


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the address. Who calls before the model is loaded waits."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidArgument(f"--host {host[:80]!r} is no address: {error}.", next="Use --host 127.0.0.1.") from error
    door = socket.socket(family, kind, protocol)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        door.listen(128)
    except OSError as error:
        door.close()
        raise _cannot_listen(host, port, error) from error
    return door


def _cannot_listen(host: str, port: int, error: OSError) -> Conflict | InvalidArgument:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"Port {port} of {host} is in use by another program.",
            next=f"Use another one, such as --port {port + 1 if port < 65535 else 8080}, or --port 0 for any free one.",
        )
    reason = error.strerror or str(error)
    return InvalidArgument(f"Cannot listen on {host}:{port}: {reason}.", next="Use --host 127.0.0.1 --port 0.")


def _opening(one: Servable, served: Served, name: str, url: str, key: str | None) -> str:
    runtime = str(served.program) if served.program else "the packaged llama.cpp"
    what = f"{one.record.model_id}, {one.quantization}" if one.record else one.gguf.name
    shown = "YOUR_KEY" if key else "none"
    return (
        f"{name} ({what}) is served at {url} by {runtime}: "
        f"{served.slots} at once, {served.context:,} tokens each.\n\n"
        f"  export OPENAI_BASE_URL={url} OPENAI_API_KEY={shown}\n"
        f"  curl {url}/chat/completions -H 'Content-Type: application/json'"
        + (' -H "Authorization: Bearer $OPENAI_API_KEY"' if key else "")
        + f' -d \'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'\n'
        f"  in tunesmith's tools: openai:{name}@{url}\n\n"
        "Ctrl-C ends it."
    )


def _serve(app: ASGIApp, door: socket.socket, served: Served) -> None:
    """Answer until a signal comes, or llama.cpp ends."""
    import uvicorn

    # No log of requests: they are other people's questions.
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, timeout_graceful_shutdown=GRACE_S, server_header=False, ws="none"
    )
    server = uvicorn.Server(config)

    async def run() -> str | None:
        looking = asyncio.create_task(_look(server, served))
        await server.serve(sockets=[door])
        looking.cancel()
        return served.died()

    died = asyncio.run(run())
    if died is not None:
        raise ServiceFailed(died, next="Start it again, with a smaller --context or fewer --slots if memory ran out.")


async def _look(server: uvicorn.Server, served: Served) -> None:
    while served.died() is None:
        await asyncio.sleep(LOOK_INTERVAL_S)
    server.should_exit = True
