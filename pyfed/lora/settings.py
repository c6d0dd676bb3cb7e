"""What a PEFT configuration says of an adapter: ranks and scalings of its modules."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyfed.errors import ArgumentError, DtypeError

_LORA_FIELDS = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
_VERA_FIELDS = ("r", "projection_prng_key")
_OTHER_FIELDS = frozenset((
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping",
    "base_model_name_or_path", "bias", "corda_config", "d_initial", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "init_weights", "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "modules_to_save", "monteclora_config", "peft_type", "peft_version",
    "qalora_group_size", "rank_pattern", "revision", "runtime_config", "save_projection",
    "target_modules", "target_parameters", "task_type", "trainable_token_indices", "use_bdlora",
    "use_dora", "use_qalora", "velora_config", "vera_dropout",
))  # fmt: skip
"""What a LoraConfig or VeraConfig has besides the numbers of ranks and scalings."""

_TASK_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


@dataclass(frozen=True)
class Settings:
    """A PEFT configuration, read.

    Args:
        peft_type: ``"LORA"`` or ``"VERA"``.
        fields: the whole configuration as a dict, with PEFT's defaults where it says nothing.
        names_heads: whether it says which parameters are trained in full; a dict of a few fields,
            such as ``AggregateResult.config``, does not.
    """

    peft_type: str
    fields: Mapping[str, Any]
    names_heads: bool = True

    @staticmethod
    def read(op: str, who: str, config: object, saved: bool = False) -> Settings:
        """From a configuration of peft, or its dict; raises on one of another method.

        Args:
            op: what messages name.
            who: the argument that holds it.
            config: the configuration.
            saved: PEFT wrote the dict, so it has PEFT's defaults where it says nothing.
        """
        to_dict = getattr(config, "to_dict", None)
        fields = to_dict() if callable(to_dict) else config
        if not isinstance(fields, Mapping):
            raise DtypeError(
                f"{op}: {who} is {type(config).__name__}; it must be a peft configuration, its "
                "dict, or None"
            )
        guess = "VERA" if "projection_prng_key" in fields else "LORA"
        method = fields.get("peft_type") or guess
        peft_type = str(getattr(method, "value", method))
        if peft_type not in ("LORA", "VERA"):
            raise ArgumentError(f"{op}: {who} is of {peft_type}; it must be of LORA or VERA")
        defaults = {"r": 8, "lora_alpha": 8} if peft_type == "LORA" else {"r": 256}
        known = {name: value for name, value in fields.items() if value is not None}
        # Dicts that PEFT wrote have auto_mapping; they may be of a version with more fields.
        if not saved and "auto_mapping" not in fields:
            _expect_told(op, who, fields, () if peft_type == "VERA" else ("r", "lora_alpha"))
        settings = Settings(peft_type, defaults | known, saved or "modules_to_save" in fields)
        settings._check(op, who)
        return settings

    def _check(self, op: str, who: str) -> None:
        ranks = {"r": self.fields["r"], **self.fields.get("rank_pattern", {})}
        for name, rank in ranks.items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ArgumentError(
                    f"{op}: {who} has rank {rank!r} for {name!r}; it must be an int of at least 1"
                )
        if self.peft_type == "VERA":
            return
        alphas = {"lora_alpha": self.fields["lora_alpha"], **self.fields.get("alpha_pattern", {})}
        for name, alpha in alphas.items():
            number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
            if not number or not math.isfinite(alpha):
                raise ArgumentError(
                    f"{op}: {who} has alpha {alpha!r} for {name!r}; it must be a finite number"
                )

    def rank(self, module: str) -> int:
        """The rank of a module's adapter."""
        return int(self._by_pattern("rank_pattern", module, self.fields["r"]))

    def scale(self, module: str) -> float:
        """The s of y = Wx + s·BAx: α/r, or α/√r with ``use_rslora``."""
        alpha = float(self._by_pattern("alpha_pattern", module, self.fields["lora_alpha"]))
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.fields.get("use_rslora") else rank)

    def _by_pattern(self, field: str, module: str, default: Any) -> Any:
        """As PEFT chooses: the first pattern, in their order, that ends the module's name."""
        for pattern, value in self.fields.get(field, {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        return default

    @property
    def base(self) -> str:
        """Name or path of the base model; empty when unknown."""
        return str(self.fields.get("base_model_name_or_path") or "")

    def is_trained(self, key: str, module: str) -> bool:
        """Whether a tensor outside the adapters is trained: a head, or a bias with ``bias=``.

        Where the configuration names no heads and does not say that there are none, all may be.
        """
        if not self.names_heads:
            return True
        if key.endswith(".bias") and self.fields.get("bias", "none") != "none":
            return True
        heads = (*(self.fields.get("modules_to_save") or ()), *self._task_heads())
        parts = module.split(".")
        owners = [".".join(parts[: place + 1]) for place in range(len(parts))]
        return any(owner.endswith(head) for owner in owners for head in heads)

    def _task_heads(self) -> tuple[str, ...]:
        """The heads that PEFT trains for a task without being told."""
        task = self.fields.get("task_type")
        return _TASK_HEADS.get(str(getattr(task, "value", task)), ())

    def numbers(self) -> dict[str, Any]:
        """The fields that fix ranks and scalings."""
        if self.peft_type == "VERA":
            return {"peft_type": "VERA", **{k: self.fields.get(k) for k in _VERA_FIELDS}}
        empty = {"use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
        chosen = {name: self.fields.get(name, empty.get(name)) for name in _LORA_FIELDS}
        return {"peft_type": "LORA", **chosen}


def settings_beside(op: str, path: Path) -> Settings | None:
    """The configuration in a folder of an adapter; None where there is none."""
    file = path / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArgumentError(f"{op}: {file} is no JSON: {error}") from None
    return Settings.read(op, str(file), fields, saved=True)


def _expect_told(op: str, who: str, fields: Mapping[str, Any], needed: tuple[str, ...]) -> None:
    """Raise unless a dict has these fields, and none that no configuration has."""
    named = [name for name, value in fields.items() if callable(getattr(value, "to_dict", None))]
    if named:
        raise ArgumentError(
            f"{op}: {who} is a dict of configurations by the adapters' names; it must be one of "
            f"them, such as model.peft_config[{named[0]!r}]"
        )
    unknown = [
        name for name in fields if name not in {*_LORA_FIELDS, *_VERA_FIELDS, *_OTHER_FIELDS}
    ]
    if unknown:
        hint = " (PEFT's name of alpha is lora_alpha)" if "alpha" in unknown else ""
        raise ArgumentError(
            f"{op}: {who} has {unknown[0]!r}, which is no field of LoraConfig or VeraConfig{hint}"
        )
    missing = [name for name in needed if fields.get(name) is None]
    if missing:
        raise ArgumentError(
            f"{op}: {who} is a dict without {' and '.join(missing)}; it must have "
            f"{' and '.join(needed)}, of which the scaling is made"
        )
