"""Sample advice with hand-checked numbers, for the tests of reports and of the plan file."""

from __future__ import annotations

from lora_advise.facts import (
    GIB,
    DataFacts,
    Facts,
    HardwareFacts,
    LinearModule,
    LoraFacts,
    ModelFacts,
    Origin,
    QuantFacts,
    StackFacts,
    TaskFacts,
    TrainFacts,
)
from lora_advise.plan import (
    Advice,
    Decision,
    FindingView,
    GuideComparison,
    MemoryEstimate,
    MemoryPart,
    MemoryVerdict,
    Note,
    Override,
    Plan,
    StepBudget,
    TimeEstimate,
    TimePart,
    WayOut,
)

EVIL = 'x<script>alert(1)</script>|`[red]b[/red]`\x1b[31m\x07"\u202e'
"""Markup of every format, a terminal escape, a bell and a direction override."""


def model(**changes) -> ModelFacts:
    shapes = {"q_proj": (3584, 3584), "k_proj": (3584, 512), "v_proj": (3584, 512), "o_proj": (3584, 3584)}
    mlp = {"gate_proj": (3584, 18944), "up_proj": (3584, 18944), "down_proj": (18944, 3584)}
    modules = [
        LinearModule(
            path=f"model.layers.*.self_attn.{n}", d_in=i, d_out=o, count=28, role="attention", bias=n != "o_proj"
        )
        for n, (i, o) in shapes.items()
    ]
    modules += [
        LinearModule(path=f"model.layers.*.mlp.{n}", d_in=i, d_out=o, count=28, role="mlp") for n, (i, o) in mlp.items()
    ]
    facts = ModelFacts(
        name="Qwen/Qwen2.5-7B-Instruct",
        asked="7B",
        model_type="qwen2",
        kind="dense",
        total_params=7_615_616_512,
        active_params=7_615_616_512,
        hidden_size=3584,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        head_dim=128,
        intermediate_size=18944,
        vocab_size=152064,
        tie_word_embeddings=False,
        max_position_embeddings=32768,
        variant="instruct",
        license="apache-2.0",
        family="Qwen2.5",
        modules=tuple(modules),
    )
    return facts.changed(changes)


def facts() -> Facts:
    return Facts(
        task=TaskFacts(name="qa", family="sft", trainer="sft"),
        model=model(),
        lora=LoraFacts(
            r=16,
            lora_alpha=32.0,
            lora_dropout=0.05,
            target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        ),
        quant=QuantFacts(load_in_4bit=True),
        train=TrainFacts(
            learning_rate=2e-4,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": 0.1},
            warmup_steps=11,
            optim="paged_adamw_8bit",
            weight_decay=0.01,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            num_train_epochs=2.0,
            max_length=1024,
            eval_share=0.05,
            eval_steps=60,
            save_steps=60,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            early_stopping_patience=3,
        ),
        data=DataFacts(
            path="train.jsonl",
            format="messages",
            examples=4000,
            tokens_per_example=420,
            completion_tokens=180,
            p99_tokens=980,
            tokens_estimated=False,
        ),
        hardware=HardwareFacts(
            name="RTX 4090",
            memory_gib=23.99,
            compute_capability="8.9",
            bf16=True,
            fp8=True,
            flash_attention_2=True,
            bitsandbytes_4bit=True,
            bandwidth_gb_s=1008.0,
        ),
        stack=StackFacts(framework="trl", versions={"peft": "0.21.0", "trl": "1.10"}),
    )


def plan() -> Plan:
    return Plan(
        facts=facts(),
        origins={
            "model.name": Origin.ASSUMED,
            "data.examples": Origin.PROBED,
            "data.tokens_per_example": Origin.PROBED,
            "hardware": Origin.SET,
            "lora.r": Origin.SET,
        },
        overrides=(Override(field="lora.r", value=16, because="matches the adapter in production"),),
    )


def decisions() -> tuple[Decision, ...]:
    def decision(field, topic, label, value, shown, because, sources, confidence, flips, **more):
        return Decision(
            field=field,
            topic=topic,
            label=label,
            value=value,
            shown=shown,
            because=because,
            sources=sources,
            confidence=confidence,
            flips=flips,
            **more,
        )

    return (
        decision(
            "gate",
            "purpose",
            "Right tool?",
            "yes",
            "yes",
            "Question answering in a house style is behaviour, which LoRA changes well with few examples.",
            ("lwr-2025", "gekhman-2024"),
            "measured",
            "Answers that need facts the model never saw: retrieval first.",
        ),
        decision(
            "method",
            "method",
            "Method",
            "qlora",
            "QLoRA (4-bit NF4)",
            "16-bit weights alone take 14.2 GiB; with 4 bits the micro-batch of 4 fits in 24 GiB.",
            ("dettmers-2023", "memory-model"),
            "derived",
            "A device of 32 GiB or more: plain LoRA is faster.",
        ),
        decision(
            "lora.target_modules",
            "adapter",
            "Target modules",
            facts().lora.target_modules,
            "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
            "All linear layers of every block: the MLP carries most of the gain.",
            ("lwr-2025", "dettmers-2023"),
            "measured",
            "Serving many adapters with tight latency.",
        ),
        decision(
            "lora.r",
            "adapter",
            "Rank (r)",
            16,
            "16",
            "Question answering starts at 16; 0.72 M supervised tokens need fewer than 8 ranks.",
            ("hu-2021", "lwr-2025"),
            "convention",
            "Ten times the data.",
            sweep=(8, 16, 32),
            advised=32,
            overridden=True,
            override_reason="matches the adapter in production",
        ),
        decision(
            "lora.lora_alpha",
            "adapter",
            "Alpha",
            32.0,
            "32",
            "The reference of the rates below.",
            ("lwr-2025",),
            "convention",
            "Nothing: move the rate instead.",
            sweep=(16, 32, 64),
        ),
        decision(
            "train.learning_rate",
            "rate",
            "Learning rate",
            2e-4,
            "2e-4",
            "3e-4 at alpha 32, x 0.67 on a 4-bit base.",
            ("tinker-sweep", "lwr-2025", "e2-metric"),
            "measured",
            "The three-point sweep below.",
            sweep=(6.7e-5, 6.7e-4),
        ),
        decision(
            "train.lr_scheduler_type",
            "rate",
            "Schedule",
            "cosine_with_min_lr",
            "cosine to 10 %",
            "Cosine to a tenth.",
            ("lwr-2025",),
            "measured",
            "Adding epochs later.",
        ),
        decision(
            "train.warmup_steps",
            "rate",
            "Warmup",
            11,
            "11 steps",
            "3 % of 476 steps.",
            ("biderman-2024",),
            "convention",
            "Loss spikes in the first steps.",
        ),
        decision(
            "effective_batch",
            "batch",
            "Effective batch",
            16,
            "16",
            "4,000 examples: LoRA does best at 8 to 32.",
            ("batch-size-2026",),
            "measured",
            "Data of another size.",
            sweep=(8, 16, 32),
        ),
        decision(
            "train.num_train_epochs",
            "batch",
            "Epochs",
            2.0,
            "2",
            "4,000 examples: held-out loss bottoms near two passes.",
            ("baseten-2026",),
            "measured",
            "Held-out loss that still falls.",
            sweep=(1, 2, 3),
        ),
        decision(
            "train.max_length",
            "data",
            "Max length",
            1024,
            "1,024",
            "The 99th percentile is 980 tokens.",
            ("arithmetic",),
            "derived",
            "Longer examples.",
        ),
        decision(
            "train.packing",
            "data",
            "Packing",
            False,
            "no",
            "4,000 short rows pad little.",
            ("trl-code",),
            "derived",
            "A mean length below a quarter of the limit.",
        ),
        decision(
            "train.dtype",
            "precision",
            "Precision",
            "bfloat16",
            "bfloat16",
            "The range of 32-bit floats in 16 bits.",
            ("dettmers-2023",),
            "derived",
            "A device without bf16.",
        ),
        decision(
            "train.eval_steps",
            "evaluation",
            "Evaluate every",
            60,
            "60 steps",
            "Eight looks at held-out loss.",
            ("diagnosis-corpus",),
            "convention",
            "Evaluation that takes longer than training.",
        ),
        decision(
            "sweep",
            "next",
            "Sweep next",
            (6.7e-5, 2e-4, 6.7e-4),
            "learning rate 6.7e-5, 2e-4, 6.7e-4 first",
            "It moves results more than any other setting.",
            ("lwr-2025",),
            "measured",
            "A clear winner.",
        ),
    )


def verdict(method, hardware, memory_gib, weights_gib, fit, micro, longest, **more) -> MemoryVerdict:
    parts = (
        MemoryPart(
            name="weights",
            label="Base weights",
            bytes=int(weights_gib * GIB),
            note="NF4 where linear" * (weights_gib < 8),
        ),
        MemoryPart(name="adapter", label="Adapter, gradients, Adam", bytes=int(0.41 * GIB), note="40.4 M parameters"),
        MemoryPart(name="activations", label="Checkpoints of 28 layers", bytes=int(0.77 * GIB)),
        MemoryPart(name="hump", label="One layer recomputed", bytes=int(1.9 * GIB), note="MLP of 18,944"),
        MemoryPart(name="logits", label="Logits and loss", bytes=int(4.64 * GIB), note="4 x 1,024 x 152,064"),
    )
    allocated = sum(part.bytes for part in parts)
    band = (int(allocated * 1.03), int(allocated * 1.15))
    estimate = MemoryEstimate(
        stack="TRL 1.16, transformers 5.23, PEFT 0.21",
        method=method,
        parts=parts,
        peak_stage="the backward pass of the loss",
        allocated=allocated,
        reserved=band,
        device=(band[0] + GIB // 2, band[1] + 2 * GIB),
        adapter_params=40_370_176,
        adapter_file=80_740_352,
        host_load=16 * GIB,
        sources=("memory-model",),
    )
    return MemoryVerdict(
        method=method,
        hardware=hardware,
        memory_gib=memory_gib,
        usable=int((memory_gib - 0.8) * GIB),
        fit=fit,
        estimate=estimate,
        micro_batch=micro,
        longest=longest,
        **more,
    )


def advice(**changes) -> Advice:
    ways = (
        WayOut(change="micro-batch 4 to 2", saves=int(3.1 * GIB), costs="8 % more time", enough=False),
        WayOut(change="max_length 1,024 to 768", saves=int(1.2 * GIB), costs="6 % of examples are cut", enough=True),
    )
    sources = ("tinker-sweep",)
    made = Advice(
        tool_version="0.1.0",
        command="lora-advise --model 7B --task qa --data train.jsonl --gpu RTX4090 --set lora.r=16",
        plan=plan(),
        decisions=decisions(),
        steps=StepBudget(
            examples=3800,
            rows=3800,
            micro_batch=4,
            accumulation=4,
            devices=1,
            effective_batch=16,
            epochs=2.0,
            steps=476,
            warmup_steps=11,
            eval_every=60,
            tokens=3_192_000,
            supervised_tokens=684_000,
        ),
        time=TimeEstimate(
            rate=(1100.0, 2400.0),
            rate_all=(1100.0, 2400.0),
            step_tokens=8_800,
            step_seconds=(3.667, 8.0),
            steps=476,
            hours=(0.5, 1.1),
            devices=1,
            evaluation_batches=350,
            evaluation_seconds=(0.3, 0.7),
            efficiency=(0.45, 0.95),
            efficiency_of="GeForce, set on 9 runs of an RTX 4080",
            parts=(TimePart(name="forward", label="Forward pass", seconds=1.2),),
            limit="arithmetic",
            assumptions=("loading, saving and warming up are not counted",),
            price=0.4,
            cost=(0.2, 0.44),
            sources=("throughput-model",),
        ),
        memory=(
            verdict("qlora", "RTX 4090", 23.99, 5.12, "tight", 4, 6144, ways_out=ways),
            verdict("lora", "RTX 4090", 23.99, 14.19, "does not fit", 1, 1536),
            verdict("full", "RTX 4090", 23.99, 85.1, "does not fit", 0, 0),
            verdict("lora", "A100-80GB", 79.25, 14.19, "fits", 16, 32768),
        ),
        notes=(
            Note(kind="advice", text="Keep 100 questions apart for the last check.", sources=("convention",)),
            Note(kind="assumption", text="7B is taken as Qwen/Qwen2.5-7B-Instruct (7.62B).", sources=("hub-metadata",)),
            Note(
                kind="warning",
                text="37 of 4,000 rows are exact duplicates: remove them first.",
                sources=("diagnosis-corpus",),
            ),
        ),
        guides=(
            GuideComparison(
                statement="S0.12",
                guide="Guide A",
                topic="rank",
                says="r=8 for simple tasks",
                we_say="16",
                verdict="refine",
                reason="The floor follows the data, not the difficulty.",
                sources=("lwr-2025",),
            ),
            GuideComparison(
                statement="S1.03",
                guide="Guide B",
                topic="alpha",
                says="alpha = 2 r always",
                we_say="32",
                verdict="agree",
                reason="At r = 16 both are 32.",
                sources=("lora-alpha-2026",),
            ),
        ),
        findings=(
            FindingView(
                rule="rank-above-need",
                code="FAM201",
                severity="note",
                confidence="measured",
                message="Rank 16 holds 2.2 times what 0.72 M supervised tokens can fill.",
                fields=("lora.r",),
                fix="lora.r = 8",
                sources=sources,
            ),
        ),
        skipped_rules=("loss-flat", "loss-diverged"),
        related_models=("mistralai/Mistral-7B-Instruct-v0.3",),
        next_steps=(
            "Write the plan: lora-advise --model 7B --task qa --emit lora-advise.yaml",
            "Train, evaluate and diagnose: lora-advise run lora-advise.yaml",
        ),
    )
    return made.changed(changes)


def hostile() -> Advice:
    """The sample with markup and control characters in every place that a user or a file can fill."""
    made = advice()
    facts_ = made.facts.changed(
        {
            "model": model(name=f"org/{EVIL}", asked=EVIL),
            "data": made.facts.data.changed({"path": f"/data/{EVIL}.jsonl"}),
            "hardware": made.facts.hardware.changed({"name": EVIL}),
        }
    )
    changed = {"label": EVIL, "shown": EVIL, "because": EVIL, "flips": EVIL, "override_reason": EVIL}
    first = made.memory[0].changed({"hardware": EVIL})
    return made.changed(
        {
            "command": f"lora-advise --model '{EVIL}'",
            "plan": made.plan.changed({"facts": facts_}),
            "decisions": tuple(d.changed(changed) for d in made.decisions),
            "memory": (first, *made.memory[1:]),
            "notes": (Note(kind="warning", text=f"a\nb {EVIL}"),),
            "next_steps": (EVIL,),
            "findings": tuple(f.changed({"message": EVIL, "fix": EVIL}) for f in made.findings),
            "guides": tuple(g.changed({"says": EVIL, "reason": EVIL}) for g in made.guides),
        }
    )
