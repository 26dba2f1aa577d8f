"""The small transformer that everything else looks into."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mechinterp.core import ShapeError, SiteError, UnsupportedError, check_memory, generator, normal, suggest
from mechinterp.models.block import Block
from mechinterp.models.config import ModelConfig
from mechinterp.models.ends import Embed, PosEmbed, Readout, Unembed
from mechinterp.models.hook_points import hooked
from mechinterp.models.lens import LensTools
from mechinterp.models.norm import make_norm
from mechinterp.models.positions import Positions


class Transformer(LensTools):
    """A decoder-style transformer whose every activation has its TransformerLens name.

    Weights start as N(0, init_scale^2 / fan_in), embeddings and positions as N(0, init_scale^2 / d_model), biases at 0.

    Args:
        config: The architecture.
        seed: Of the initial weights; each parameter has a generator of its own, so adding a layer changes no other.
            None leaves matrices as memory was, for weights that are loaded at once.

    Raises:
        ConfigError: If the memory does not hold a model of this size.

    >>> model = Transformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=5, n_ctx=6))
    >>> model(torch.zeros(3, 6, dtype=torch.long)).shape
    torch.Size([3, 6, 5])
    """

    def __init__(self, config: ModelConfig, seed: int | None = 0) -> None:
        check_memory(config.memory, f"a model of {config.n_weights:,} weights")
        super().__init__()
        self.config = config
        self.embed = Embed(config)
        self.hook_embed = HookPoint()
        if config.position_table:
            self.pos_embed = PosEmbed(config)
            self.hook_pos_embed = HookPoint()
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config) for _ in range(config.n_layers))  # type: ignore[assignment]
        self.ln_final = make_norm(config)
        self.readout = Readout(config) if config.readout_layers else nn.Identity()
        self.unembed = Unembed(config, self.embed)
        self.setup()
        self.to(torch.float32)  # whatever torch's default is
        if seed is not None:
            self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw all weight matrices again; biases, norms and fixed embeddings stay as they are."""
        fixed = ("W_E", "W_pos") if self.config.embedding == "fixed" else ()
        for name, weight in self.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if leaf.startswith("W_") and leaf not in fixed:
                draw = normal(generator(seed, "init", name), *weight.shape)
                weight.copy_(draw * (self.config.init_scale / math.sqrt(self._fan_in(leaf, weight))))

    def untrained(self, seed: int) -> Transformer:
        """A model of the same configuration, device and type before training, with initial weights of its own."""
        return Transformer(self.config, seed).to(self.device, self.dtype)

    def _fan_in(self, leaf: str, weight: Tensor) -> int:
        if leaf == "W_O":
            return weight.shape[0] * weight.shape[1]
        return weight.shape[-1] if leaf in ("W_E", "W_pos") else weight.shape[-2]

    def forward(self, inputs: Tensor, return_type: str | None = "logits") -> Tensor | None:
        """Logits or values at every position.

        Args:
            inputs: Tokens `[batch, seq]` or vectors `[batch, seq, d_in]`.
            return_type: `logits` (whatever the outputs are) or None, which runs for the hooks alone.

        Raises:
            ShapeError: If the inputs do not fit the configuration.
            UnsupportedError: If `return_type` is anything else; losses belong to tasks here.
        """
        if return_type not in ("logits", None):
            raise UnsupportedError(f"return_type='{return_type}': a Transformer returns 'logits' or None")
        resid, where = self.embedded(inputs)
        for block in self.blocks:
            resid = block(resid, where)
        return None if return_type is None else self.read(resid)

    def embedded(self, inputs: Tensor) -> tuple[Float[Tensor, "... seq d_model"], Positions]:
        """The residual stream before the first layer, and where its rows stand."""
        config = self.config
        tokens = config.inputs == "tokens"
        if tokens and (inputs.is_floating_point() or inputs.ndim < 1):
            raise ShapeError(f"this model reads tokens [batch, seq], got {inputs.dtype} {list(inputs.shape)}")
        if not tokens and (inputs.ndim < 2 or inputs.shape[-1] != config.d_in):
            raise ShapeError(f"this model reads vectors [batch, seq, {config.d_in}], got {list(inputs.shape)}")
        seq = inputs.shape[-1] if tokens else inputs.shape[-2]
        if seq > config.n_ctx:
            raise ShapeError(f"sequence of {seq}, and the model's n_ctx is {config.n_ctx}")
        resid = self.hook_embed(self.embed.W_E[inputs] if tokens else inputs @ self.embed.W_E)
        unseen = inputs == config.pad_token if config.pad_token is not None else None
        if not config.position_table:
            return resid, Positions.whole(seq, resid.device, unseen=unseen)
        positions = self.pos_embed.W_pos[:seq]
        if config.position_source:
            # One row per example, as in TransformerLens, so that a hook can edit a single example's positions.
            positions = positions.expand_as(resid)
        if hooked(self.hook_pos_embed):
            # A hook that edits in place must not write to the weights.
            positions = positions.clone()
        positions = self.hook_pos_embed(positions)
        if config.position_source:
            return resid + positions, Positions.whole(seq, resid.device, unseen=unseen)
        return resid, Positions.whole(seq, resid.device, positions, unseen)

    def read(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... out"]:
        """Final norm, readout where the model has one, and unembedding."""
        out = self.readout(self.ln_final(resid)) @ self.unembed.W_U
        return out + self.unembed.b_U if self.config.unembed_bias else out

    def add_hook(self, name, hook, *args, **kwargs) -> None:
        """As in TransformerLens, but a name that does not exist is an error that names the nearest ones."""
        if isinstance(name, str):
            self.check_hook(name)
        super().add_hook(name, hook, *args, **kwargs)

    def run_with_hooks(self, *args, fwd_hooks=(), bwd_hooks=(), **kwargs):
        """As in TransformerLens, with names checked first."""
        for name, _ in (*fwd_hooks, *bwd_hooks):
            if isinstance(name, str):
                self.check_hook(name)
        return super().run_with_hooks(*args, fwd_hooks=list(fwd_hooks), bwd_hooks=list(bwd_hooks), **kwargs)

    def check_hook(self, name: str) -> str:
        """Return a hook's name if the model has it.

        Raises:
            SiteError: If it does not, naming the nearest ones.
        """
        if name not in self.hook_dict:
            raise SiteError(f"no hook '{name}' in this model.{suggest(name, self.hook_dict)}")
        return name
