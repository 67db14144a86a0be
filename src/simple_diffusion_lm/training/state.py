"""The moving parts of a run: model, average, optimiser, and how far they have come."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..errors import UserError
from ..model.objective import Objective
from ..text.cooccurrence import cooccurrence_vectors
from ..text.corpus import Corpus
from . import checkpoint
from .config import Config
from .distributed import averaging_gradients, divide, divided_like, whole
from .objectives import OBJECTIVES
from .optimizers import OPTIMIZERS


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential average of the weights, with a decay that warms up as (1 + n) / (10 + n).

    Without the warm-up the average is mostly initial noise for its first 1 / (1 - decay) steps.
    """

    def update(average: Any, current: Any, count: Any) -> None:
        warm = (1 + float(count)) / (10 + float(count))
        torch._foreach_lerp_(average, current, 1 - min(decay, warm))

    return AveragedModel(model, multi_avg_fn=update)


@dataclass
class Progress:
    """How far a run has come. Resuming starts from here."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # batches of this epoch that are done
    batches: int = 0  # batches in all: the number that seeds noise
    tokens: int = 0  # real tokens seen
    seconds: float = 0.0  # in steps alone: validating and sampling do not count
    clipped: int = 0  # steps whose gradient was longer than it may be


class State:
    """Everything a checkpoint holds.

    Attributes:
        model, average, optimizers, progress: the parts. With `shard` each process has a share
            of their tensors; what a checkpoint holds is always whole.
        loss: the model's, with gradients that are means over the processes.
    """

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        corpus: Corpus,
        device: torch.device | str = "cpu",
        *,
        shard: bool = False,
    ) -> None:
        torch.manual_seed(config.seed)
        self.build = partial(OBJECTIVES[config.objective], config, vocab_size)
        self.model = self.build()
        self.model.start_from_counts(torch.from_numpy(corpus.counts(vocab_size)))
        if config.cooccurrence:
            vectors = cooccurrence_vectors(
                corpus.ids, vocab_size, config.embedding_dim, seed=config.seed
            )
            self.model.embedding.start_from(vectors)
        self.model.to(device)
        self.average = averaged(self.model, config.ema).to(device)
        if shard:
            divide(self.model)
            divide(self._average)
        self.optimizers = OPTIMIZERS[config.optimizer](
            self.model, config.learning_rate, config.beta2, config.weight_decay
        )
        self.progress = Progress()
        self.shard = shard
        self.loss = averaging_gradients(self.model, may_skip=config.layer_drop > 0)

    @property
    def _average(self) -> Objective:
        module = self.average.module
        assert isinstance(module, Objective)
        return module

    @property
    def averaged_model(self) -> Objective:
        """The average, to measure and to sample from; put together where it is in shares."""
        if not self.shard:
            return self._average
        model = self.build().to(self.average.n_averaged.device)
        model.load_state_dict(self.model_tensors())
        return model

    def model_tensors(self) -> dict[str, Tensor]:
        """What generation needs: the averaged weights, and the schedule if it was fitted."""
        return _whole(self._average.state_dict())

    def state_tensors(self) -> dict[str, Tensor]:
        """What resuming needs besides."""
        tensors = _prefixed("model", _whole(self.model.state_dict()))
        tensors["average.count"] = self.average.n_averaged
        for name, optimizer in self.optimizers.items():
            for number, slots in optimizer.state_dict()["state"].items():
                tensors |= _prefixed(f"{name}.{number}", _whole(slots))
        return tensors

    def counters(self) -> dict[str, Any]:
        return asdict(self.progress)

    def start_from(self, run: Path) -> None:
        """Begins with the weights of another run. Raises UserError where they do not fit."""
        found = checkpoint.to_use(run)
        if found is None:
            raise UserError(f"{run}: no whole checkpoint to begin with")
        weights = found.model_for(self.model, otherwise="keep its network and its vocabulary")
        for module in (self.model, self._average):
            _load(module, weights)

    def load(
        self, model: dict[str, Tensor], state: dict[str, Tensor], counters: dict[str, Any]
    ) -> None:
        """Puts back what model_tensors, state_tensors and counters gave."""
        _load(self._average, model)
        _load(self.model, _under("model", state))
        self.average.n_averaged.copy_(state["average.count"])
        for name, optimizer in self.optimizers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for key, tensor in _under(name, state).items():
                number, slot = key.split(".")
                shared = divided_like(tensor, parameters[int(number)])
                slots.setdefault(int(number), {})[slot] = shared
            optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        self.progress = Progress(**counters)


def _whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(tensor) for name, tensor in tensors.items()}


def _load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Loads whole tensors, where it may hold shares."""
    own = module.state_dict()
    module.load_state_dict({name: divided_like(t, own[name]) for name, t in tensors.items()})


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    cut = len(prefix) + 1
    return {name[cut:]: t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
