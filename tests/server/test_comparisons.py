"""Comparisons through a client: scored by hand, read as resources, told of when they change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from tests.evaluation import scored
from tests.server.test_notices import LIST, following, go
from tunesmith.evaluation.human import record_scores
from tunesmith.evaluation.store import ComparisonStore
from tunesmith.server.app import TunesmithServer, build_server
from tunesmith.server.settings import Settings
from tunesmith.workspace import Workspace, new_id

TUNED = "my tuned"
Drive = Callable[..., Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENAI_API_KEY", "TUNESMITH_OPENAI_API_KEY", "OPENAI_BASE_URL", "OLLAMA_HOST"):
            patch.delenv(name, raising=False)
        folder = tmp_path_factory.mktemp("compared") / "ws"
        workspace, comparison_id = scored.make(folder, judged=True, questions=8)
        workspace.database.close()
    return folder, comparison_id


@pytest.fixture
def comparison_id(original: tuple[Path, str], tmp_path: Path) -> str:
    shutil.copytree(original[0], tmp_path / "ws")
    return original[1]


@pytest.fixture
def server(tmp_path: Path, comparison_id: str) -> TunesmithServer:
    """One whose workspace holds a complete comparison."""
    return build_server(Settings(workspace=tmp_path / "ws", allow_roots=[tmp_path]))


@pytest.fixture(params=["auto", "legacy"])
def era(request: pytest.FixtureRequest) -> str:
    return request.param


def one(question: int = 1, label: str = TUNED, **changes: Any) -> dict[str, Any]:
    return {
        "question": question, "label": label, "domain_knowledge": 4, "response_style": 3, "accuracy": 5, **changes,
    }  # fmt: skip


def test_scores_given_in_a_chat_are_in_the_result_the_resources_and_the_report(
    drive: Drive, comparison_id: str
) -> None:
    given = [one(n, label, note="<b>good</b>") for n in (1, 2) for label in ("base", TUNED)]

    async def talk(client: Client) -> Any:
        result = await client.call_tool("record_scores", {"comparison_id": comparison_id, "scores": given})
        whole = await client.read_resource(f"comparisons://{comparison_id}")
        report = await client.read_resource(f"comparisons://{comparison_id}/report")
        listed = [str(each.uri) for each in (await client.list_resources()).resources]
        return result, json.loads(whole.contents[0].text), report.contents[0].text, listed

    result, whole, report, listed = drive(talk)
    assert not result.is_error, result.content[0].text
    found = result.structured_content
    assert (found["human"]["scored"], found["human"]["questions"], found["human"]["decides"]) == (4, 2, False)
    assert found["human"]["agreement"]["pairs"] == 4
    assert found["models"][0]["human"]["total"]["mean"] == 12
    assert found["verdict"]["rests_on"] == "judge"
    assert {**whole, "samples": [], "samples_left_out": 8} == found
    assert "people" in report.lower()
    assert f"comparisons://{comparison_id}/report" in listed
    assert len(result.content[0].text) <= 20_000


def test_those_who_follow_a_comparison_are_told_when_it_is_scored_elsewhere(
    server: TunesmithServer, era: str, comparison_id: str
) -> None:
    uris = [f"comparisons://{comparison_id}/report", f"comparisons://{comparison_id}"]
    elsewhere = Workspace(server.services.workspace.root)

    async def main() -> None:
        async with following(server, era, uris) as (client, heard):
            await anyio.to_thread.run_sync(record_scores, elsewhere, comparison_id, [scored.entry(1, TUNED, 2)])
            await heard.until(*uris)
            assert (
                json.loads((await client.read_resource(uris[1])).contents[0].text)["models"][1]["human"]["total"][
                    "mean"
                ]
                == 6
            )

    go(main)


def test_a_new_comparison_changes_the_list_and_is_told_to_those_who_waited_for_it(
    server: TunesmithServer, era: str, comparison_id: str
) -> None:
    store = ComparisonStore(Workspace(server.services.workspace.root))
    new = new_id("cmp")
    (server.services.workspace.comparisons / new).mkdir()
    made = store.get(comparison_id).model_copy(update={"comparison_id": new})
    uri = f"comparisons://{new}/report"

    async def main() -> None:
        async with following(server, era, [uri], lists=True) as (client, heard):
            with pytest.raises(MCPError, match="no complete comparison"):
                await client.read_resource(uri)
            store.complete(made, markdown="# new", html="<p>new</p>")
            await heard.until(LIST, uri)
            assert uri in [str(each.uri) for each in (await client.list_resources()).resources]
            assert (await client.read_resource(uri)).contents[0].text == "# new"

    go(main)


WRONG = [
    ([one(accuracy=6)], "scores.0.accuracy: input should be less than or equal to 5"),
    ([one(accuracy=0)], "scores.0.accuracy: input should be greater than or equal to 1"),
    ([one(accuracy=True)], "scores.0.accuracy: input should be a valid integer"),
    ([one(accuracy="4")], "scores.0.accuracy: input should be a valid integer"),
    ([one(accuracy=4.5)], "scores.0.accuracy: input should be a valid integer"),
    ([one(), {"question": 2, "label": TUNED, "accuracy": 3}], "scores.1.domain_knowledge is missing"),
    ([one(acuracy=3)], "scores.0.acuracy"),
    ([one(question=99)], "there is no question 99; they are 1 to 8"),
    ([one(question=2**70)], "there is no question"),
    ([one(label="Tuned")], "did you mean 'my tuned'"),
    ([one(), one()], "stands in scores[0] already"),
    ([one(scored.FAILED, "base")], "gave no answer to question 5"),
    ([one(note="x" * 2001)], "scores.0.note: "),
    ([], "scores: "),
    ([one(n) for n in range(10_000)], "at most 1000 items"),
    (None, "scores is missing"),
]


def test_wrong_scores_are_named_and_nothing_is_recorded(server: TunesmithServer, comparison_id: str) -> None:
    async def main() -> list[Any]:
        async with Client(server) as client:
            given = [{"scores": scores} if scores is not None else {} for scores, _ in WRONG]
            return [await client.call_tool("record_scores", {"comparison_id": comparison_id, **each}) for each in given]

    for result, (_, expected) in zip(go(main), WRONG, strict=True):
        text = result.content[0].text
        assert result.is_error, expected
        assert expected in text
        assert text.startswith("[invalid_argument]") and "Next: " in text
        assert len(text) < 2500
    assert not list((server.services.workspace.comparisons / comparison_id).glob("human*"))


def test_a_comparison_that_is_not_there_or_not_complete_cannot_be_scored(server: TunesmithServer) -> None:
    (server.services.workspace.comparisons / "cmp_aaaaaaaaaaaa").mkdir()

    async def main() -> list[str]:
        async with Client(server) as client:
            return [
                (await client.call_tool("record_scores", {"comparison_id": each, "scores": [one()]})).content[0].text
                for each in ("cmp_aaaaaaaaaaaa", "cmp_bbbbbbbbbbbb", "ds_aaaaaaaaaaaa", "../../etc")
            ]

    unfinished, unknown, other, path = go(main)
    assert unfinished.startswith("[conflict]") and "is not complete" in unfinished
    assert unknown.startswith("[not_found]")
    assert "is a dataset id" in other
    assert "is not an id" in path
