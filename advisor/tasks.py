"""The tasks that people fine-tune for, their names in English and Chinese, and what the evidence says of each.

Rank floors are conventions (no study sweeps rank over all tasks); learning rates are for alpha_eff = 32 with AdamW and
carry the sweep interval that the sources span. Typical sizes are assumptions, used only when no data is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import TaskFacts, TaskFamily
from lora_advise.plan import Confidence

Trainer = Literal["sft", "dpo", "kto", "orpo", "simpo", "grpo", "ppo", "reward", "classification"]


@dataclass(frozen=True, slots=True)
class TaskProfile:
    """What is particular to one task."""

    name: str
    label: str
    family: TaskFamily
    trainer: Trainer
    purpose: Literal["behaviour alignment", "knowledge injection", "pattern learning"]
    rank_floor: int
    rate: float
    """Learning rate at alpha_eff = 32 (AdamW, LoRA on a 16-bit base)."""
    rate_range: tuple[float, float]
    rate_sources: tuple[str, ...]
    rate_confidence: Confidence
    typical: tuple[int, int, int]
    """Examples, tokens per example, completion tokens: assumed when nothing is known."""
    loss_on: Literal["completion", "assistant", "all"] = "completion"
    synonyms: tuple[str, ...] = field(default=())

    def facts(self) -> TaskFacts:
        """The task as a section of the facts."""
        return TaskFacts(name=self.name, family=self.family, trainer=self.trainer)


_SFT = ("tinker-sweep", "baseten-2026", "lwr-2025", "biderman-2024", "raschka-2023")
_DPO = ("trl-lr-table", "unsloth-guide", "llamafactory-defaults", "alignment-handbook", "tinker-docs")


def _sft(
    name: str,
    label: str,
    purpose: Literal["behaviour alignment", "knowledge injection", "pattern learning"],
    floor: int,
    typical: tuple[int, int, int],
    synonyms: tuple[str, ...],
    loss_on: Literal["completion", "assistant", "all"] = "completion",
) -> TaskProfile:
    """A supervised task with the one learning rate that 35 swept models agree on (tinker-sweep)."""
    return TaskProfile(
        name, label, "sft", "sft", purpose, floor, 3e-4, (1e-4, 1e-3), _SFT, "measured", typical, loss_on, synonyms
    )


def _preference(name: Trainer, label: str, synonyms: tuple[str, ...]) -> TaskProfile:
    """A preference task: rates 20 to 60 times below supervised ones."""
    return TaskProfile(
        name, label, "preference", name, "behaviour alignment", 16, 1e-5, (1e-6, 5e-5), _DPO, "measured",
        (10_000, 800, 300), "completion", synonyms,
    )  # fmt: skip


TASKS: dict[str, TaskProfile] = {
    task.name: task
    for task in (
        _sft("chat", "Chat and instruction following", "behaviour alignment", 16, (10_000, 600, 300),
             ("instruction", "instruct", "sft", "assistant", "dialogue", "conversation", "instruction-following",
              "style", "behaviour-alignment", "behavior-alignment", "behaviour", "对话", "指令微调", "指令遵循", "聊天",
              "多轮对话", "行为对齐", "风格"), "assistant"),
        TaskProfile("classification", "Text classification", "classification", "classification", "pattern learning", 8,
                    3e-4, (1e-4, 1e-3), ("hu-2021", "tinker-sweep", "baseten-2026"), "measured", (5_000, 200, 5),
                    "completion", ("classify", "sentiment", "labeling", "labelling", "nlu", "intent", "分类", "简单分类",
                                   "情感分析", "意图识别")),
        _sft("extraction", "Information extraction and structured output", "pattern learning", 16, (2_000, 500, 80),
             ("extract", "ner", "json", "structured-output", "pattern-learning", "pattern", "信息抽取", "抽取", "模式学习",
              "结构化输出", "实体识别")),
        _sft("qa", "Question answering", "behaviour alignment", 16, (10_000, 400, 150),
             ("question-answering", "questions", "reading-comprehension", "rag-qa", "问答", "专业问答", "专业qa")),
        _sft("summarization", "Summarization", "behaviour alignment", 16, (10_000, 1_200, 150),
             ("summarisation", "summary", "summarize", "tldr", "translation", "摘要", "总结", "翻译")),
        _sft("roleplay", "Role play and character voice", "behaviour alignment", 32, (2_000, 1_500, 800),
             ("role-play", "rp", "character", "persona", "角色扮演", "人设"), "assistant"),
        _sft("code", "Code generation", "pattern learning", 32, (20_000, 700, 400),
             ("coding", "programming", "text-to-sql", "sql", "code-generation", "代码", "编程", "代码生成")),
        _sft("math", "Mathematics and reasoning", "pattern learning", 32, (20_000, 1_500, 1_200),
             ("reasoning", "math/reasoning", "math-reasoning", "cot", "long-cot", "distillation", "数学", "推理", "复杂推理",
              "思维链")),
        _sft("tool-use", "Tool use and function calling", "pattern learning", 16, (10_000, 1_000, 150),
             ("tools", "function-calling", "tool-calling", "agent", "agents", "api", "工具调用", "函数调用", "智能体"),
             "assistant"),
        TaskProfile("knowledge-injection", "Knowledge injection", "sft", "sft", "knowledge injection", 64, 2e-4,
                    (5e-5, 5e-4), ("gekhman-2024", "new-facts-2025"), "convention", (5_000, 400, 200), "completion",
                    ("knowledge", "facts", "inject", "知识注入", "注入知识")),
        TaskProfile("domain-adaptation", "Domain adaptation", "sft", "sft", "knowledge injection", 64, 1e-4,
                    (1e-5, 2e-4), ("biderman-2024", "unsloth-cpt"), "measured", (20_000, 800, 400), "completion",
                    ("domain", "domain-adapt", "vertical", "领域适配", "领域微调", "行业术语", "企业级应用", "跨领域决策")),
        TaskProfile("continued-pretraining", "Continued pretraining", "pretraining", "sft", "knowledge injection", 128,
                    1e-4, (1e-5, 2e-4), ("biderman-2024", "unsloth-cpt"), "measured", (50_000, 1_000, 1_000), "all",
                    ("cpt", "pretraining", "pretrain", "continual-pretraining", "pt", "继续预训练", "增量预训练", "预训练")),
        TaskProfile("language-transfer", "Transfer to a new language", "pretraining", "sft", "knowledge injection", 64,
                    2e-4, (5e-5, 3e-4), ("zh-llama-2", "unsloth-cpt"), "measured", (100_000, 1_000, 1_000), "all",
                    ("language", "new-language", "multilingual", "语言迁移", "语言适配", "多语言")),
        _preference("dpo", "Direct preference optimization", ("preference", "ipo", "rlhf", "alignment", "偏好对齐", "偏好优化")),
        _preference("kto", "Kahneman-Tversky optimization", ("unpaired-preference",)),
        _preference("orpo", "Odds-ratio preference optimization", ()),
        _preference("simpo", "Simple preference optimization", ("cpo",)),
        TaskProfile("grpo", "Online reinforcement learning (GRPO)", "rl", "grpo", "behaviour alignment", 16, 1e-5,
                    (1e-6, 8e-5), ("trl-lr-table", "tinker-docs", "tina-2025"), "measured", (5_000, 1_200, 1_000),
                    "completion", ("rl", "rlvr", "reinforcement-learning", "dapo", "gspo", "强化学习")),
        TaskProfile("ppo", "Online reinforcement learning (PPO)", "rl", "ppo", "behaviour alignment", 16, 1e-5,
                    (1e-6, 8e-5), ("trl-lr-table", "llamafactory-defaults"), "measured", (5_000, 800, 500),
                    "completion", ("rloo",)),
        TaskProfile("reward", "Reward model", "reward", "reward", "behaviour alignment", 16, 1e-4, (2e-5, 2e-4),
                    ("llamafactory-defaults", "ms-swift-defaults"), "convention", (20_000, 600, 300), "completion",
                    ("reward-model", "rm", "reward-modeling", "奖励模型", "奖励")),
        TaskProfile("vision-language", "Vision-language instruction", "sft", "sft", "pattern learning", 32, 2e-4,
                    (1e-5, 3e-4), ("llava-1.5", "qwen-vl", "torchtune-recipes"), "convention", (10_000, 900, 150),
                    "assistant", ("vlm", "vl", "vision", "multimodal", "image", "image-text", "视觉语言", "多模态", "图文",
                                  "图文生成")),
    )
}  # fmt: skip
"""Every task by its canonical name."""

PURPOSES: dict[str, str] = {
    "behaviour alignment": "chat",
    "knowledge injection": "knowledge-injection",
    "pattern learning": "extraction",
}
"""The three purposes of seed guide S2, each with the task that stands for it when nothing closer is named."""


def task_names() -> dict[str, str]:
    """Every accepted name, folded, to the canonical name."""
    names = {_fold(name): name for name in TASKS}
    for task in TASKS.values():
        for synonym in task.synonyms:
            names.setdefault(_fold(synonym), task.name)
    return names


def resolve_task(asked: str) -> TaskProfile:
    """The task of that name, synonym or Chinese name. Raises LoraAdviseError with the closest names."""
    names = task_names()
    folded = _fold(asked)
    if folded in names:
        return TASKS[names[folded]]
    import difflib

    close = list(dict.fromkeys(names[n] for n in difflib.get_close_matches(folded, names, n=5, cutoff=0.6)))
    hint = f"did you mean {', '.join(close[:3])}?" if close else f"choose one of {', '.join(TASKS)}."
    raise LoraAdviseError(f"--task: {asked[:60]!r} is no task that I know; {hint}")


def _fold(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")
