"""Arguments of ms-swift that had other names, or that are gone."""

from __future__ import annotations

from lora_advise.dialect import Renamed

RENAMED: tuple[Renamed, ...] = (
    Renamed("train_type", "tuner_type", "ms-swift", "4.0", "error", "swift-history"),
    *(
        Renamed(old, new, "ms-swift", since, "error", "swift-history", note)
        for old, new, since, note in (
            ("sft_type", "tuner_type", "3.0", ""), ("model_id_or_path", "model", "3.0", ""),
            ("lora_target_modules", "target_modules", "3.0", "ALL is all-linear now, and DEFAULT is gone."),
            ("lora_target_regex", "target_regex", "3.0", ""), ("lora_dropout_p", "lora_dropout", "3.0", ""),
            ("lora_modules_to_save", "modules_to_save", "3.0", ""), ("lora_lr_ratio", "lorap_lr_ratio", "3.0", ""),
            ("lora_bias_trainable", "lora_bias", "3.0", ""), ("init_lora_weights", "init_weights", "3.0", ""),
            ("quantization_bit", "quant_bits", "3.0", "It needs quant_method bnb beside it."),
            ("bnb_4bit_comp_dtype", "bnb_4bit_compute_dtype", "3.0", ""), ("dtype", "torch_dtype", "3.0", ""),
            ("batch_size", "per_device_train_batch_size", "3.0", ""),
            ("eval_batch_size", "per_device_eval_batch_size", "3.0", ""), ("template_type", "template", "3.0", ""),
            ("dataset_test_ratio", "split_dataset_ratio", "3.0", ""), ("only_save_model", "save_only_model", "3.0", ""),
            ("preprocess_num_proc", "dataset_num_proc", "3.0", ""), ("dataset_seed", "data_seed", "3.0", ""),
            ("use_flash_attn", "attn_impl", "3.0", "Its value is the name of an implementation."),
            ("self_cognition_sample", None, "3.0", ""), ("check_dataset_strategy", None, "3.0", ""),
            ("train_dataset_sample", None, "3.5", "A data set's name takes #count."), ("val_dataset_sample", None, "3.0", ""),
            ("vit_use_gc", "vit_gradient_checkpointing", "3.0", ""), ("use_liger", "use_liger_kernel", "3.5", ""),
            ("train_sampler_random", "train_dataloader_shuffle", "3.5", ""), ("metric", "eval_metric", "4.0", ""),
            ("eval_datasets", "eval_dataset", "3.9", ""), ("multi_turn_func", "multi_turn_scheduler", "3.12", ""),
        )
    ),
)  # fmt: skip
"""Compared over 13 releases from 2.2.5 to 4.6.0; ``since`` is the first of those that has the new name, or not the old one."""
