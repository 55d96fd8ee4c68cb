# ruff: noqa: E501  sample text reads better whole
"""Planted questions and answers in the notations people use, and text that only looks like them."""

from __future__ import annotations

from pathlib import Path

TOPICS_EN = (
    ("change the battery of logger {n}", "Open the blue lid with a coin and slide cell {n} out towards the hinge."),
    ("read the code of station {n}", "Hold the button for {n} seconds; the display then shows four digits."),
    ("clean sensor {n}", "Wipe it with distilled water only. Soap leaves a film that costs {n} percent of the signal."),
    ("move archive {n} to another disk", "Stop the gateway, copy folder {n}, and start it with the new path."),
)
TOPICS_ZH = (
    ("怎样更换{n}号记录仪的电池", "先用硬币打开蓝色盖子，再把{n}号电池朝合页方向推出。"),
    ("如何读取{n}号站的代码", "按住按钮{n}秒，屏幕上会显示四位数字。"),
    ("{n}号传感器该怎么清洁", "只用蒸馏水擦拭。肥皂会留下一层膜，使信号损失百分之{n}。"),
    ("怎么把{n}号档案移到另一块硬盘", "停下网关，复制{n}号文件夹，再用新的路径启动它。"),
)
Pair = tuple[str, str]


def _english(number: int) -> Pair:
    question, answer = TOPICS_EN[number % len(TOPICS_EN)]
    return f"How do I {question.format(n=number)}?", answer.format(n=number)


def _chinese(number: int) -> Pair:
    question, answer = TOPICS_ZH[number % len(TOPICS_ZH)]
    return f"{question.format(n=number)}？", answer.format(n=number)


# One notation a line: name, ending, how one pair is written ({q}, {a}, {i} counts), how all are joined, what stands around.
ENGLISH = (
    ("Q: and A: lines", "md", "Q: {q}\nA: {a}", "\n\n"),
    ("Q1: and A1: lines", "md", "Q{i}: {q}\nA{i}: {a}", "\n\n"),
    ("bold Q: and A:", "md", "**Q: {q}**\n\n**A:** {a}", "\n\n"),
    ("bold marks only", "md", "**Q:** {q}  \n**A:** {a}", "\n\n"),
    ("Question: and Answer:", "md", "Question: {q}\n\nAnswer: {a}", "\n\n"),
    ("question headings", "md", "### {q}\n\n{a}", "\n\n"),
    ("numbered headings", "md", "### {i}. {q}\n\n{a}", "\n\n"),
    ("Q: in headings", "md", "### Q{i}: {q}\n\nA: {a}", "\n\n"),
    ("headings with a sign", "md", "## ❓ {q}\n\n{a}", "\n\n"),
    ("details", "md", "<details>\n<summary>{q}</summary>\n\n{a}\n\n</details>", "\n\n"),
    ("details in one line", "md", "<details><summary><b>{q}</b></summary>{a}</details>", "\n\n"),
    ("list of Q and A", "md", "- Q{i}. {q}\n  A{i}. {a}", "\n"),
    ("numbered bold questions", "md", "{i}. **{q}**\n\n   {a}", "\n\n"),
    ("bold paragraphs", "md", "**{q}**\n\n{a}", "\n\n"),
    ("bold line, answer below", "md", "**{q}**  \n{a}", "\n\n"),
    ("nested list", "md", "- {q}\n  - {a}", "\n"),
    ("quotes", "md", "> Q: {q}\n>\n> A: {a}", "\n\n"),
    ("definition list", "md", "{q}\n: {a}", "\n\n"),
    ("table of questions", "md", "| {q} | {a} |", "\n"),
    ("plain text", "txt", "Q: {q}\nA: {a}", "\n\n"),
    ("rst headings", "rst", "{q}\n{line}\n\n{a}", "\n\n"),
    ("rst definition list", "rst", "{q}\n    {a}", "\n\n"),
    ("html headings", "html", "<h3>{q}</h3>\n<p>{a}</p>", "\n"),
    ("html definition list", "html", "<dt>{q}</dt><dd>{a}</dd>", "\n"),
    ("html details", "html", "<details><summary>{q}</summary><p>{a}</p></details>", "\n"),
)
CHINESE = (
    ("问: 答:", "md", "问: {q}\n答: {a}", "\n\n"),
    ("问： 答：", "md", "问：{q}\n\n答：{a}", "\n\n"),
    ("Q： A：", "md", "Q{i}：{q}\nA{i}：{a}", "\n\n"),
    ("问题1： 答案：", "md", "问题{i}：{q}\n答案：{a}", "\n\n"),
    ("【问】【答】", "md", "【问】{q}\n【答】{a}", "\n\n"),
    ("**问题**", "md", "**问：{q}**\n\n**答：**{a}", "\n\n"),
    ("question headings", "md", "### {q}\n\n{a}", "\n\n"),
    ("numbered headings", "md", "### {i}、{q}\n\n{a}", "\n\n"),
    ("Q: in headings", "md", "#### Q{i}：{q}\n\nA：{a}", "\n\n"),
    ("details", "md", "<details>\n<summary>{q}</summary>\n\n{a}\n\n</details>", "\n\n"),
    ("numbered bold questions", "md", "{i}. **{q}**\n\n   {a}", "\n\n"),
    ("bold paragraphs", "md", "**{q}**\n\n{a}", "\n\n"),
    ("nested list", "md", "- {q}\n  - {a}", "\n"),
    ("table of questions", "md", "| {q} | {a} |", "\n"),
    ("plain text", "txt", "问：{q}\n答：{a}", "\n\n"),
    ("html headings", "html", "<h3>{q}</h3>\n<p>{a}</p>", "\n"),
)
_AROUND = {
    "table of questions": ("| Question | Answer |\n|---|---|\n", ""),
    "html definition list": ("<dl>\n", "\n</dl>"),
}
# Nothing in these asks and answers: each word of the notation means something else here.
DISTRACTORS = {
    "choices.md": "# Quiz\n\nWhere is the station?\n\nA. On the hill above the reed bed\nB. In the harbour next to the crane\n\n"
    "Each group writes its choice on a card and hands it in before lunch.\n",
    "quarters.md": "# Results\n\nQ3: revenue rose by nine percent over the year before.\n\nQ4: the harbour was closed for weeks.\n\n"
    "A: the northern site. B: the southern site. Both are run by the same crew of three.\n",
    "rhetoric.md": "# Why we moved\n\nWho would not want a dry cellar? We did, and so we moved the archive uphill in May.\n\n"
    "- Was it cheap?\n- Was it fast?\n- It was neither, but it was done before the flood came.\n",
    "folded.md": "# Log\n\nThe log of the week follows, folded away because it is long.\n\n<details><summary>History</summary>\n\n"
    "The pump was replaced on Monday and ran without a stop since then.\n\n</details>\n\n<details><summary>Show more</summary>\n\n"
    "The second pump was taken apart and sent to the workshop in Ostby.\n\n</details>\n",
    "小测.md": "# 小测\n\n下面哪个站在山上，请每组写在卡片上交给老师。\n\nA. 苇港站\nB. 东岸站\n\n午饭之前交卡片，过时不候，也不再补发卡片。\n",
    "反问.md": "# 搬家\n\n谁不想要干燥的地窖呢？我们也想，所以五月份把档案搬到了山上。\n\n问题：地窖里一直有积水，水泵也坏了。\n\n"
    "- 便宜吗？\n- 快吗？\n- 都不是，但赶在洪水之前搬完了。\n",
}


def write(folder: Path, each: int = 12) -> list[tuple[str, str, list[Pair]]]:
    """Write one file a notation, and the distractors. Returns (file, notation, its pairs)."""
    planted: list[tuple[str, str, list[Pair]]] = []
    count = 0
    for language, notations, make in (("en", ENGLISH, _english), ("zh", CHINESE, _chinese)):
        for number, (name, ending, form, gap) in enumerate(notations):
            pairs = [make(count + index + 2) for index in range(each)]
            count += each
            written = [
                form.format(q=q, a=a, i=index, line="-" * 2 * len(q)) for index, (q, a) in enumerate(pairs, start=1)
            ]
            before, after = _AROUND.get(name, ("", ""))
            if language == "zh":
                before = before.replace("Question", "问题").replace("Answer", "回答")
            title = {"md": "# Notes {}\n\n", "txt": "", "rst": "Notes {}\n========\n\n", "html": "<h1>Notes {}</h1>\n"}[
                ending
            ]
            file = f"{language}-{number:02}.{ending}"
            text = title.format(number) + before + gap.join(written) + after + "\n"
            (folder / file).write_text(text, encoding="utf-8")
            planted.append((file, f"{language} {name}", pairs))
    for file, text in DISTRACTORS.items():
        (folder / file).write_text(text, encoding="utf-8")
    return planted
