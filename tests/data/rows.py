"""Rows for the tests of the data room: clean ones in both languages, and ways to spoil them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tunesmith.data.records import Dataset, Message, Row, Source
from tunesmith.data.store import DatasetStore
from tunesmith.workspace import Workspace

EN_SUBJECTS = (
    "gradient checkpointing", "a learning rate schedule", "weight decay", "a tokenizer", "the attention mask",
    "mixed precision", "a validation split", "early stopping", "quantisation", "a low-rank adapter", "beam search",
    "a context window", "batch normalisation", "a loss curve", "data augmentation", "an embedding table",
)  # fmt: skip
EN_FACTS = (
    "It trades a little extra computation for a large saving in memory.",
    "Most libraries switch it on with one argument.",
    "You notice its effect after a few hundred steps.",
    "Teams usually choose it together with the batch size.",
    "It was described in several papers before it became common practice.",
    "A wrong setting shows up as a loss that refuses to fall.",
    "Small experiments on a single card are enough to compare the options.",
    "The default is reasonable for models below ten billion parameters.",
    "It matters less when the dataset is large and clean.",
    "Write the chosen value into the run's configuration so others can repeat it.",
    "The documentation explains which versions support it.",
    "Older graphics cards handle it more slowly.",
    "Reviewers often ask for a chart that shows the difference.",
    "Its cost grows with the length of the sequences.",
    "Beginners confuse it with regularisation, which has another purpose.",
)
EN_OPENINGS = ("What is", "Explain", "When do you need", "How would you describe", "Why do people use", "Summarise")
ZH_SUBJECTS = (
    "梯度检查点", "学习率调度", "权重衰减", "分词器", "注意力掩码", "混合精度", "验证集", "提前停止", "量化",
    "低秩适配器", "束搜索", "上下文窗口", "批归一化", "损失曲线", "数据增强", "词嵌入表",
)  # fmt: skip
ZH_FACTS = (
    "它用少量额外的计算换取大量的显存节省。", "大多数框架只需要一个参数就能打开。", "训练几百步之后就能看到效果。",
    "一般和批大小一起选择。", "在成为常规做法之前已有多篇论文讨论过它。", "设置错误时损失迟迟不下降。",
    "在单张显卡上做小实验就足以比较各个选项。", "对百亿参数以下的模型,默认值已经足够合理。",
    "数据量大而且干净的时候,它的影响会变小。", "请把选定的数值写进运行配置,方便别人复现。",
    "文档说明了哪些版本支持这个功能。", "较旧的显卡处理起来会慢一些。", "评审常常要求用图表展示差别。",
    "它的开销随着序列长度增长。", "初学者容易把它和正则化混淆,其实目的不同。",
)  # fmt: skip
ZH_OPENINGS = ("什么是", "请解释", "为什么需要", "如何理解", "怎样使用", "简述")


def clean_pair(number: int, language: str) -> tuple[str, str]:
    """A question and an answer that no check has anything to say about; different for every number."""
    chooser = random.Random(f"{language}{number}")
    english = language == "en"
    subject = chooser.choice(EN_SUBJECTS if english else ZH_SUBJECTS)
    opening = chooser.choice(EN_OPENINGS if english else ZH_OPENINGS)
    facts = chooser.sample(EN_FACTS if english else ZH_FACTS, 4)
    if english:
        tag, *others = ("".join(chooser.choices("bcdfghklmnprstvwz", k=7)) + "a" for _ in range(9))
        asides = [f"Compare {left} with {right}." for left, right in zip(others[::2], others[1::2], strict=True)]
        body = " ".join(f"{fact} {aside}" for fact, aside in zip(facts, asides, strict=True))
        return f"{opening} {subject} in project {tag}?", f"In project {tag}, {subject} works so. {body}"
    tag, *others = ("".join(chooser.choices("山水云林海江湖石松竹梅兰春夏秋冬东南西北", k=8)) for _ in range(5))
    body = "".join(f"{fact}可参考{other}。" for fact, other in zip(facts, others, strict=True))
    return f"{opening}{tag}项目中的{subject}?", f"在{tag}项目中,{subject}这样工作。{body}"


def pair_row(question: str, answer: str, row_id: str = "", **fields: object) -> Row:
    messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return Row(row_id=row_id, messages=messages, **fields)


def clean_rows(count: int, language: str = "both", first: int = 0) -> list[Row]:
    languages = ("zh", "en") if language == "both" else (language,)
    return [pair_row(*clean_pair(number, languages[number % len(languages)])) for number in range(first, first + count)]


def stored(workspace: Workspace, rows: Sequence[Row], name: str = "test") -> Dataset:
    return DatasetStore(workspace).create(rows, name=name, created_by="test")


def source(path: str, first_line: int, last_line: int) -> Source:
    return Source(path=path, sha256="0" * 64, first_line=first_line, last_line=last_line, strategy="sections")
