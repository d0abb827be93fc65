"""The masked autoencoder of He et al. 2022 around a timm VisionTransformer.

Shape letters:  B batch   N patches   V visible patches   H hidden patches   D encoder width   E decoder width
                P values of a patch (patch_px * patch_px * 3)

The encoder sees visible patches only. Which are hidden is an integer hash of the sample's key, sorted stably: the same
on every device and for any number of ranks.
"""

from typing import NamedTuple

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from fer_scale.encoder import sincos_positions

_MASK_STREAM = 16
_FP16_MAX = torch.finfo(torch.float16).max
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # splitmix64's increment as a signed integer


class Mask(NamedTuple):
    visible_BV: Tensor  # numbers of the patches that are seen, in the order in which the encoder sees them
    hidden_BN: Tensor  # True where a patch is hidden


def mask_of(keys_B: Tensor, patches: int, ratio: float) -> Mask:
    """The mask of each sample, drawn from its key (int64: the bits of the uint64 of shards/order.py)."""
    streams = torch.arange(patches, device=keys_B.device) + (_MASK_STREAM << 32)
    noise_BN = _mix(_mix(keys_B[:, None] + streams * _GOLDEN))
    order_BN = noise_BN.argsort(dim=1, stable=True)
    visible = visible_patches(patches, ratio)
    visible_BV = order_BN[:, :visible].sort(dim=1).values
    hidden_BN = torch.ones(noise_BN.shape, dtype=torch.bool, device=keys_B.device)
    return Mask(visible_BV, hidden_BN.scatter(1, visible_BV, False))


def visible_patches(patches: int, ratio: float) -> int:
    return int(patches * (1 - ratio))


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64, whose products wrap as those of uint64 do."""
    x = (x ^ _right(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _right(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _right(x, 31)


def _right(x: Tensor, by: int) -> Tensor:
    """A logical shift: torch's >> keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def patchify(images: Tensor, patch_px: int) -> Tensor:
    """[B, 3, p, p] -> [B, N, P], a patch's values ordered (row, column, channel) as in the reference MAE."""
    b, c, height, width = images.shape
    grid = images.reshape(b, c, height // patch_px, patch_px, width // patch_px, patch_px)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch_px * patch_px * c)


def unpatchify(patches_BNP: Tensor, patch_px: int) -> Tensor:
    """The reverse of `patchify`, for square images."""
    b, n, _ = patches_BNP.shape
    side = round(n**0.5)
    grid = patches_BNP.reshape(b, side, side, patch_px, patch_px, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, 3, side * patch_px, side * patch_px)


class MaskedAutoencoder(nn.Module):
    """`forward` gives the loss of each image: the mean squared error over its hidden patches."""

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        mask_ratio: float,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        norm_pixels: bool,
        norm_eps: float,
        recompute: bool = False,
    ):
        super().__init__()
        self.encoder = encoder
        self.mask_ratio, self.norm_pixels, self.norm_eps, self.recompute = mask_ratio, norm_pixels, norm_eps, recompute
        self.beyond: list[Tensor] | None = None  # where it is a list, what share of each block's output explodes
        self.patch_px = encoder.patch_embed.patch_size[0]
        self.patches = encoder.patch_embed.num_patches
        self.decoder_embed = nn.Linear(encoder.embed_dim, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        positions = sincos_positions(decoder_width, round(self.patches**0.5))[None]
        self.decoder_positions = nn.Parameter(positions, requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_width, decoder_heads, qkv_bias=True) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.decoder_pixels = nn.Linear(decoder_width, self.patch_px**2 * 3)
        nn.init.normal_(self.mask_token, std=0.02)
        decoder = (self.decoder_embed, self.decoder_blocks, self.decoder_pixels)
        for linear in (m for part in decoder for m in part.modules() if isinstance(m, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def compile_blocks(self) -> None:
        """torch.compile in place, of the blocks alone: the wrapping products of `mask_of` are too large for its C++."""
        for block in (*self.encoder.blocks, *self.decoder_blocks):
            block.compile()

    def forward(self, images: Tensor, keys_B: Tensor) -> Tensor:
        """Loss [B], in fp32, of normalised images [B, 3, p, p]."""
        mask = mask_of(keys_B, self.patches, self.mask_ratio)
        predicted_BNP = self.decode(self.encode(images, mask), mask)
        with torch.autocast(images.device.type, enabled=False):
            return reconstruction_loss(predicted_BNP.float(), self.target(images), mask)

    def encode(self, images: Tensor, mask: Mask) -> Tensor:
        """[B, 1 + V, D]: the class token and the visible patches."""
        encoder = self.encoder
        tokens_BND = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
        index = mask.visible_BV[:, :, None].expand(-1, -1, tokens_BND.shape[2])
        visible_BVD = tokens_BND.gather(1, index)
        first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(images), -1, -1)
        x = encoder.norm_pre(torch.cat([first, visible_BVD.to(first.dtype)], 1))
        return encoder.norm(self._through(encoder.blocks, x))

    def decode(self, encoded: Tensor, mask: Mask) -> Tensor:
        """[B, N, P]: the pixels of every patch."""
        x = self.decoder_embed(encoded)
        patches_BNE = self.mask_token.to(x.dtype).expand(len(x), self.patches, -1)
        index = mask.visible_BV[:, :, None].expand(-1, -1, x.shape[2])
        patches_BNE = patches_BNE.scatter(1, index, x[:, 1:])
        x = torch.cat([x[:, :1], patches_BNE], 1) + self.decoder_positions
        return self.decoder_pixels(self.decoder_norm(self._through(self.decoder_blocks, x)))[:, 1:]

    def target(self, images: Tensor) -> Tensor:
        """[B, N, P]: the pixels to be predicted, each patch normalised by its own mean and deviation if asked."""
        target_BNP = patchify(images.float(), self.patch_px)
        if self.norm_pixels:
            mean, variance = target_BNP.mean(2, keepdim=True), target_BNP.var(2, keepdim=True)
            target_BNP = (target_BNP - mean) / (variance + self.norm_eps).sqrt()
        return target_BNP

    def _through(self, blocks: nn.Module, x: Tensor) -> Tensor:
        for block in blocks.children():
            x = recomputed(block, x, use_reentrant=False) if self.recompute and self.training else block(x)
            if self.beyond is not None:
                self.beyond.append((~(x.detach().abs() <= _FP16_MAX)).float().mean())  # so NaN counts
        return x

    @torch.no_grad()
    def reconstruct(self, images: Tensor, keys_B: Tensor) -> tuple[Tensor, Tensor]:
        """(masked, filled) of normalised images: hidden patches at 0, and hidden patches predicted."""
        mask = mask_of(keys_B, self.patches, self.mask_ratio)
        predicted_BNP = self.decode(self.encode(images, mask), mask).float()
        true_BNP = patchify(images, self.patch_px)
        if self.norm_pixels:
            mean, variance = true_BNP.mean(2, keepdim=True), true_BNP.var(2, keepdim=True)
            predicted_BNP = predicted_BNP * (variance + self.norm_eps).sqrt() + mean
        hidden = mask.hidden_BN[:, :, None]
        masked = unpatchify(true_BNP.masked_fill(hidden, 0.0), self.patch_px)
        return masked, unpatchify(torch.where(hidden, predicted_BNP, true_BNP), self.patch_px)


def reconstruction_loss(predicted_BNP: Tensor, target_BNP: Tensor, mask: Mask) -> Tensor:
    """Loss [B]: the squared error, averaged over the values of a patch and the hidden patches of an image."""
    error_BN = (predicted_BNP - target_BNP).square().mean(2)
    return (error_BN * mask.hidden_BN).sum(1) / mask.hidden_BN.sum(1)
