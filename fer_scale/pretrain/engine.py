"""DeepSpeed, and nothing else: a model, its optimizer and its gradients, sharded over the ranks.

The recipe owns every number that changes the mathematics; the layout file owns only how ZeRO lays the state out. What
DeepSpeed 0.19.8 does that this goes round:

- Stage 0 neither clips, nor measures, nor skips a step whose gradient is not finite: done here. Stages 1-3 do it.
- Adam's state exists only after the first step, and with more than one parameter group stages 1 and 2 link only
  the first group's to the parameters: `_prime` creates and links it beforehand.
- `safe_set_full_*` fails at stage 3 on the last rank when a tensor does not divide by the ranks: local setters
  are used.
- `safe_set_full_fp32_param` does not touch the parameter that the model computes with: weights go into the module
  before `deepspeed.initialize`, the fp32 masters are set after it.
- Some layout options break the mapping from parameters to state without an error: what is saved is compared with the
  live weights first, and layout.py lets only known options through.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fer_scale import optim
from fer_scale.checkpoint import CheckpointError, NotSaved
from fer_scale.pretrain.layout import layout_for, refuse
from fer_scale.pretrain.recipe import Plan, Pretrain
from fer_scale.pretrain.stragglers import Spent
from fer_scale.pretrain.world import World
from fer_scale.tensors import sum_of_bits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import deepspeed
    from deepspeed.runtime.torch_autocast import PARAM_COMM_DTYPE_ATTR_NAME
    from deepspeed.utils import (
        safe_get_full_fp32_param,
        safe_get_full_optimizer_state,
        safe_get_local_fp32_param,
        safe_get_local_optimizer_state,
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

State = dict[str, Tensor]
NOT_LIVE = "the gathered weights are not the live ones; nothing was saved"
MOMENTS = (("m", "exp_avg"), ("v", "exp_avg_sq"))


@dataclass(frozen=True, slots=True)
class Stepped:
    loss: Tensor  # summed over this rank's images
    grad_norm: float  # of the whole gradient, before clipping; not finite where the step was skipped


class Slice(NamedTuple):
    """Some of the weights, flat, as AdamW left them, with its averages of their gradients."""

    w: Tensor
    m: Tensor
    v: Tensor
    step: int  # of Adam
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


class Piece(NamedTuple):
    """A tensor of the training state, by its name in the checkpoint."""

    name: str
    bytes: int
    home: int | None  # the rank that has it, and gets it alone; None: all ranks get it, at the same time
    get: Callable[[], Tensor]


class Engine:
    def __init__(self, model: nn.Module, recipe: Pretrain, plan: Plan, world: World):
        trained = [p for p in model.parameters() if p.requires_grad]
        layout = layout_for(recipe.run.deepspeed, sum(p.numel() for p in trained))
        self.stage: int = layout["stage"]
        refuse(recipe.run, self.stage)
        self._world, self._plan, self._batch = world, plan, recipe.batch.size
        self._clip = recipe.optim.clip_norm
        self._skipped = 0  # steps, of this process, by DeepSpeed's count
        self.spent = Spent(world.device.type == "cuda")
        self._trained: list[Any] = trained  # at stage 3 with attributes of DeepSpeed's
        groups = optim.parameter_groups(model, recipe.optim.weight_decay)
        self._adamw = torch.optim.AdamW(groups, lr=plan.lr, betas=recipe.optim.betas, fused=True)
        self._group_of = {p: group for group in self._adamw.param_groups for p in group["params"]}
        config = {
            "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's own speedometer reads it; shares may be uneven
            "gradient_accumulation_steps": plan.accumulation,
            "gradient_clipping": self._clip if self.stage else 0.0,
            "zero_optimization": layout,
            "steps_per_print": 2**62,
            "communication_data_type": recipe.run.reduce_dtype,
        }
        if recipe.run.precision == "bf16":
            for p in trained if recipe.run.reduce_dtype == "bf16" else ():  # whose own type goes before the key above
                setattr(p, PARAM_COMM_DTYPE_ATTR_NAME, torch.bfloat16)
            safe: list[str] = []
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": safe}
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=self._adamw, config=config)
        self._prime()
        self._parts = self._parts_of_weights() if self.stage in (1, 2) else {}
        world.limit_waiting(recipe.run.waiting_s)

    @property
    def module(self) -> nn.Module:
        return self._engine.module

    @property
    def numel(self) -> int:
        """Parameters in all; at stage 3 a rank's own tensors are empty between uses."""
        return sum(getattr(p, "ds_numel", p.numel()) for p in self.module.parameters())

    def step(self, micro_batches: Iterator[tuple[Tensor, Tensor]], lr: float) -> Stepped:
        """One optimizer step over all micro-batches of (images, keys)."""
        for group in self._adamw.param_groups:
            group["lr"] = lr * group["lr_scale"]
        # DeepSpeed averages over ranks and micro-batches, whatever their sizes: this makes it the mean over images.
        weight = self._world.ranks * self._plan.accumulation / self._batch
        total = torch.zeros((), device=self._world.device)
        norm = float("nan")
        for images, keys in self.spent.making("views", micro_batches):
            with self.spent.on("forward"):
                loss = self._engine(images, keys).sum()
            self._engine.backward(loss * weight)
            total += loss.detach()
            if self.stage == 0 and self._engine.is_gradient_accumulation_boundary():
                norm = nn.utils.clip_grad_norm_(self._trained, self._clip or float("inf")).item()
                with self._skipping(not torch.isfinite(torch.tensor(norm))):
                    self._engine.step()
            else:
                self._engine.step()  # steps the optimizer on the last micro-batch only
        if self.stage:
            skipped = self._engine.skipped_steps
            norm = float(self._engine.get_global_grad_norm() or 0.0) if skipped == self._skipped else float("nan")
            self._skipped = skipped
        return Stepped(total, norm)

    @contextmanager
    def _skipping(self, skip: bool) -> Iterator[None]:
        step: Callable[..., Any] = self._adamw.step
        if skip:
            self._adamw.step = lambda *_, **__: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            self._adamw.step = step  # type: ignore[method-assign]

    @property
    def adam_step(self) -> int:
        return max((int(state["step"]) for state in self._adamw.state.values()), default=0)

    @property
    def numel_trained(self) -> int:
        return sum(getattr(p, "ds_numel", p.numel()) for p in self._trained)

    def slices(self) -> Iterator[Slice]:
        """The trained weights that this rank's optimizer steps; each weight is in one rank's. With ZeRO's padding."""
        step = self.adam_step
        for of, w, m, v in self._stepped():
            yield Slice(w, m, v, step, of["lr"], of["betas"], of["eps"], of["weight_decay"])

    def _stepped(self) -> Iterator[tuple[dict[str, Any], Tensor, Tensor, Tensor]]:
        if self.stage == 3:  # whose flat tensors mix the parameters' own padding in, which may hold anything
            for p in self._trained:
                real = max(0, p.ds_numel - self._world.rank * p.ds_tensor.ds_numel)
                w, m, v = safe_get_local_fp32_param(p), *(safe_get_local_optimizer_state(p, key) for _, key in MOMENTS)
                yield self._group_of[p], w[:real], m[:real], v[:real]
        elif self.stage or self._world.is_main:  # at stage 0 all ranks have all
            for group in self._adamw.param_groups:
                for p in group["params"]:
                    if state := self._adamw.state.get(p):
                        yield group, p, state["exp_avg"], state["exp_avg_sq"]

    def weights(self) -> State:
        """A copy of the module's state on the main rank, nothing on the others; all ranks must call it."""
        with deepspeed.zero.GatheredParameters(list(self.module.parameters()), enabled=self.stage == 3):
            return {k: v.clone() for k, v in self.module.state_dict().items()} if self._world.is_main else {}

    def tensors(self, writers: Collection[int]) -> Iterator[Piece]:
        """The training state in one fixed order, to be written by these ranks.

        What is got may be the live tensor itself; a rank that does not write it drops it at once.
        """
        for name, p in self.module.named_parameters():
            size, home = 4 * getattr(p, "ds_numel", p.numel()), self._home(p, writers)
            get = partial(self._weight, name, p, home)
            yield Piece(f"{'w' if p.requires_grad else 'f'}.{name}", size, home, get)
            for letter, key in MOMENTS if p.requires_grad else ():
                yield Piece(f"{letter}.{name}", size, home, partial(self._moment, p, key, home))
        for name, buffer in self.module.state_dict(keep_vars=True).items():
            if not isinstance(buffer, nn.Parameter):
                yield Piece(f"b.{name}", buffer.numel() * buffer.element_size(), None, buffer.detach)

    def _home(self, p: Any, writers: Collection[int]) -> int | None:
        lying = self._parts.get(p, [])
        return lying[0][0] if len(lying) == 1 and lying[0][0] in writers else None

    def _weight(self, name: str, p: nn.Parameter, home: int | None) -> Tensor:
        if not (self.stage and p.requires_grad):
            with deepspeed.zero.GatheredParameters([p], enabled=self.stage == 3):
                return p.detach().clone() if self.stage == 3 else p.detach()
        master = self._whole(p, None, home)
        with deepspeed.zero.GatheredParameters([p], enabled=self.stage == 3):
            if self.stage == 3 and not torch.equal(master.reshape(p.shape), p):  # at 1 and 2: see `sums_of_live_bits`
                raise NotSaved(f"{name}: {NOT_LIVE}")
            return master.reshape(p.shape)

    def _moment(self, p: nn.Parameter, key: str, home: int | None) -> Tensor:
        if self.stage:
            return self._whole(p, key, home)
        state = self._adamw.state.get(p)
        return state[key] if state else torch.zeros_like(p)

    def _whole(self, p: Any, key: str | None, home: int | None) -> Tensor:
        """The master of a weight, or one of its moments: on all ranks, or on the one that has it and is asked alone.

        DeepSpeed's way at stages 1 and 2, a sum in which a rank counts with 0 where it has nothing, takes three times
        as long over gloo, and makes 0.0 of -0.0.
        """
        if self.stage == 3:
            return safe_get_full_optimizer_state(p, key) if key else safe_get_full_fp32_param(p)
        parts = []
        for rank, length in self._parts[p]:
            mine = rank == self._world.rank
            part = p._hp_mapping.get_hp_fragment(key).to(p.device) if mine else torch.empty(length, device=p.device)
            if home is None:
                self._world.spread(part, of=rank)
            parts.append(part)
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).view(p.shape)

    def sums_of_live_bits(self) -> dict[str, int]:
        """Of each weight that at stages 1 and 2 every rank computes with: equal on all, and to its master's."""
        trained = ((name, p) for name, p in self.module.named_parameters() if self._parts and p.requires_grad)
        return {f"w.{name}": sum_of_bits(p.detach()) for name, p in trained}

    def _parts_of_weights(self) -> dict[Any, list[tuple[int, int]]]:
        """Of each trained weight, flat, the (rank, length) of the parts that it lies in, in their order."""
        linked = [(number, p._hp_mapping) for number, p in enumerate(self._trained)]
        mine = {number: m.lp_fragment_address.numel for number, m in linked if m is not None}
        told = list(enumerate(self._world.collect(mine)))
        parts = {p: [(rank, of[n]) for rank, of in told if n in of] for n, p in enumerate(self._trained)}
        assert all(sum(length for _, length in lying) == p.numel() for p, lying in parts.items())
        return parts

    def _prime(self) -> None:
        """Create and link Adam's state before the first step, so that it can be read and set."""
        if not self.stage:
            return
        zero = self._engine.optimizer
        flats = getattr(zero, "single_partition_of_fp32_groups", None) or zero.fp32_partitioned_groups_flat
        for flat in flats:
            self._adamw.state[flat] = {
                "step": torch.tensor(0.0, device=flat.device),
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
            }
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
            zero._lazy_init_hp_params_optimizer_state()

    def restore(self, state: State, adam_step: int) -> None:
        """Masters and moments as in a checkpoint; the weights went into the module before, see `load_weights`."""
        for name, p in self.module.named_parameters():
            if not p.requires_grad:
                continue
            w, m, v = (state[f"{letter}.{name}"] for letter in "wmv")
            if not self.stage:
                zero = torch.tensor(0.0, device=p.device)
                self._adamw.state[p] = {"step": zero, "exp_avg": m.to(p.device), "exp_avg_sq": v.to(p.device)}
                continue
            for value, key in ((w, None), (m, "exp_avg"), (v, "exp_avg_sq")):
                self._set(p, value, key)
        for entry in self._adamw.state.values():
            entry["step"] = torch.tensor(float(adam_step), device=entry["step"].device)

    def _set(self, p: nn.Parameter, value: Tensor, key: str | None) -> None:
        if not hasattr(p, "ds_tensor"):
            value = value.to(self._world.device)
            safe_set_full_optimizer_state(p, value, key) if key else safe_set_full_fp32_param(p, value)
            return
        n = p.ds_tensor.ds_numel  # stage 3: this rank's slice of the padded flat tensor
        flat = torch.zeros(n * self._world.ranks)
        flat[: value.numel()] = value.flatten()
        mine = flat[self._world.rank * n : (self._world.rank + 1) * n].to(self._world.device)
        safe_set_local_optimizer_state(p, mine, key) if key else safe_set_local_fp32_param(p, mine)


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "deepspeed": deepspeed.__version__}


def load_weights(model: nn.Module, state: State) -> None:
    """Weights, frozen parameters and buffers of a checkpoint, before the model is given to an Engine."""
    own = model.state_dict()
    wanted = {key[2:]: value for key, value in state.items() if key[0] in "wfb"}
    odd = sorted(set(own) ^ set(wanted)) or [k for k in own if own[k].shape != wanted[k].shape]
    if odd:
        raise CheckpointError(f"the checkpoint is of another model: {', '.join(odd[:5])}; was the recipe changed?")
    model.load_state_dict(wanted)
