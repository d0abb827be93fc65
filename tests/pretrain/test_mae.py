"""The masked autoencoder against an independent, plain implementation: loops, no timm forward, no scatter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fer_scale import encoder
from fer_scale.pretrain import mae
from shards.order import bits


def model(norm_pixels: bool = True) -> mae.MaskedAutoencoder:
    torch.manual_seed(0)
    vit = encoder.build("32x2x4", image_px=32, patch_px=8)
    for parameter in vit.parameters():  # also biases and norms, which start at 0 and 1
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.normal_(vit.pos_embed[:, 0], std=0.2)  # type: ignore[index, unused-ignore]  # of a stranger's encoder
    return mae.MaskedAutoencoder(
        vit, mask_ratio=0.75, decoder_width=16, decoder_depth=1, decoder_heads=2, norm_pixels=norm_pixels, norm_eps=1e-6
    )


def plain_block(x: Tensor, w: dict[str, Tensor], heads: int) -> Tensor:
    """A pre-norm transformer block on one image [T, D], attention written out."""

    def norm(v: Tensor, name: str) -> Tensor:
        centred = v - v.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    _, width = x.shape
    size = width // heads
    qkv = norm(x, "norm1") @ w["attn.qkv.weight"].T + w["attn.qkv.bias"]
    outs = []
    for h in range(heads):
        q, k, v = (qkv[:, part * width + h * size : part * width + (h + 1) * size] for part in range(3))
        scores = torch.exp(q @ k.T / size**0.5)
        outs.append(scores / scores.sum(1, keepdim=True) @ v)
    x = x + torch.cat(outs, 1) @ w["attn.proj.weight"].T + w["attn.proj.bias"]
    hidden = norm(x, "norm2") @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return x + hidden @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt() * weight + bias


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def plain_loss(state: dict[str, Tensor], image: Tensor, visible: list[int], norm_pixels: bool) -> float:
    """MAE's loss of one image [3, 32, 32], a patch at a time (He et al. 2022, section 3)."""
    patches = [image[:, r : r + 8, c : c + 8] for r in range(0, 32, 8) for c in range(0, 32, 8)]
    enc = part(state, "encoder.")
    kernel = enc["patch_embed.proj.weight"]
    tokens = [enc["cls_token"][0, 0] + enc["pos_embed"][0, 0]]
    for n in visible:
        embedded = (kernel * patches[n][None]).sum((1, 2, 3)) + enc["patch_embed.proj.bias"]
        tokens.append(embedded + enc["pos_embed"][0, 1 + n])
    x = torch.stack(tokens)
    for block in range(2):
        x = plain_block(x, part(enc, f"blocks.{block}."), heads=4)
    x = plain_norm(x, enc["norm.weight"], enc["norm.bias"])
    x = x @ state["decoder_embed.weight"].T + state["decoder_embed.bias"]
    full = [x[0]] + [x[1 + visible.index(n)] if n in visible else state["mask_token"][0, 0] for n in range(16)]
    x = torch.stack(full) + state["decoder_positions"][0]
    x = plain_block(x, part(state, "decoder_blocks.0."), heads=2)
    x = plain_norm(x, state["decoder_norm.weight"], state["decoder_norm.bias"])
    predicted = (x @ state["decoder_pixels.weight"].T + state["decoder_pixels.bias"])[1:]
    errors = []
    for n in range(16):
        if n not in visible:
            target = patches[n].permute(1, 2, 0).flatten()
            if norm_pixels:
                target = (target - target.mean()) / (target.var(unbiased=True) + 1e-6).sqrt()
            errors.append((predicted[n] - target).square().mean().item())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_the_loss_is_that_of_a_plain_implementation(norm_pixels: bool) -> None:
    autoencoder = model(norm_pixels)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    keys = torch.arange(5)
    visible = mae.mask_of(keys, 16, 0.75).visible_BV.tolist()
    state = {k: v.detach() for k, v in autoencoder.state_dict().items()}
    expected = [plain_loss(state, image, seen, norm_pixels) for image, seen in zip(images, visible, strict=True)]
    assert autoencoder(images, keys).tolist() == pytest.approx(expected, rel=1e-5)


def test_hidden_pixels_do_not_reach_the_encoder() -> None:
    autoencoder = model()
    images, keys = torch.randn(3, 3, 32, 32), torch.tensor([7, 8, 9])
    mask = mae.mask_of(keys, 16, 0.75)
    hidden = mae.unpatchify(mask.hidden_BN[:, :, None].expand(-1, -1, 8 * 8 * 3).float(), 8) > 0
    torch.testing.assert_close(
        autoencoder.encode(images, mask), autoencoder.encode(images.masked_fill(hidden, 123.0), mask), rtol=0, atol=0
    )


def test_the_mask_is_the_hash_of_the_key_and_never_changes() -> None:
    keys = np.array([0, 1, 2**64 - 1], np.uint64)
    visible = mae.mask_of(torch.from_numpy(keys.view("int64")), 16, 0.75).visible_BV
    assert visible.tolist() == [[1, 5, 11, 14], [0, 6, 9, 10], [1, 4, 10, 12]]


@settings(max_examples=30, deadline=None)
@given(key=st.integers(0, 2**64 - 1), patches=st.sampled_from([9, 16, 36, 196]), ratio=st.floats(0.1, 0.9))
def test_as_many_patches_are_hidden_as_the_ratio_says(key: int, patches: int, ratio: float) -> None:
    mask = mae.mask_of(torch.from_numpy(np.array([key], np.uint64).view("int64")), patches, ratio)
    assert mask.visible_BV.shape == (1, int(patches * (1 - ratio)))
    seen = set(mask.visible_BV[0].tolist())
    assert seen == set((~mask.hidden_BN[0]).nonzero().flatten().tolist())


def test_each_patch_is_hidden_about_as_often() -> None:
    keys = bits(np.arange(4000, dtype=np.uint64), 0, 1)[:, 0]
    hidden = mae.mask_of(torch.from_numpy(keys.view("int64")), 36, 0.75).hidden_BN.float().mean(0)
    assert (hidden - 0.75).abs().max() < 0.03  # over four standard errors


def test_patches_come_back_as_the_image_they_were() -> None:
    images = torch.randn(2, 3, 24, 24)
    assert torch.equal(mae.unpatchify(mae.patchify(images, 8), 8), images)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_a_reconstruction_is_the_picture_where_it_is_seen_and_what_is_predicted_elsewhere(norm_pixels: bool) -> None:
    autoencoder, images, keys = model(norm_pixels), torch.randn(2, 3, 32, 32) * 3 + 1, torch.tensor([3, 4])
    mask = mae.mask_of(keys, 16, 0.75)
    masked, filled = autoencoder.reconstruct(images, keys)
    predicted = autoencoder.decode(autoencoder.encode(images, mask), mask)
    for row in range(2):
        for n in range(16):
            place = (row, slice(None), slice(n // 4 * 8, n // 4 * 8 + 8), slice(n % 4 * 8, n % 4 * 8 + 8))
            if n in mask.visible_BV[row]:
                assert torch.equal(masked[place], images[place]) and torch.equal(filled[place], images[place])
                continue
            guess = predicted[row, n].reshape(8, 8, 3).permute(2, 0, 1)
            if norm_pixels:
                guess = guess * (images[place].var() + 1e-6).sqrt() + images[place].mean()
            assert (masked[place] == 0).all()
            torch.testing.assert_close(filled[place], guess, rtol=1e-5, atol=1e-5)


def test_a_decoder_begins_as_the_reference_has_it() -> None:
    torch.manual_seed(0)
    vit = encoder.build("32x2x4", image_px=32, patch_px=8)
    begun = mae.MaskedAutoencoder(
        vit, mask_ratio=0.75, decoder_width=1024, decoder_depth=1, decoder_heads=2, norm_pixels=True, norm_eps=1e-6
    )
    assert torch.equal(begun.decoder_positions, encoder.sincos_positions(1024, 4)[None])
    assert not begun.decoder_positions.requires_grad
    assert begun.mask_token.shape == (1, 1, 1024) and begun.mask_token.std().item() == pytest.approx(0.02, rel=0.1)
    for linear in (begun.decoder_embed, begun.decoder_blocks[0].mlp.fc1, begun.decoder_pixels):  # type: ignore[union-attr]
        bound = (6 / (linear.in_features + linear.out_features)) ** 0.5  # type: ignore[operator, union-attr]
        assert linear.weight.abs().max().item() == pytest.approx(bound, rel=0.01) and not linear.bias.any()  # type: ignore


def test_the_loss_is_in_float32_whatever_the_network_computes_in() -> None:
    autoencoder, images, keys = model().bfloat16(), torch.randn(2, 3, 32, 32).bfloat16(), torch.tensor([3, 4])
    mask = mae.mask_of(keys, 16, 0.75)
    predicted = autoencoder.decode(autoencoder.encode(images, mask), mask)
    expected = mae.reconstruction_loss(predicted.float(), autoencoder.target(images.float()), mask)
    found = autoencoder(images, keys)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert autoencoder.reconstruct(images, keys)[1].dtype == torch.float32


def test_a_patch_of_one_colour_is_divided_by_no_zero() -> None:
    autoencoder, grey = model(), torch.full((1, 3, 32, 32), 0.5)
    assert not autoencoder.target(grey).any()
    filled = autoencoder.reconstruct(grey, torch.tensor([3]))[1]
    assert filled.isfinite().all() and (filled - grey).abs().max() < 0.1  # what is predicted counts a thousandth


def test_what_share_of_a_blocks_output_no_fp16_holds() -> None:
    autoencoder, blocks = model(), nn.Sequential(nn.Identity(), nn.ReLU())
    values = torch.tensor([65504.0, 65505.0, -65504.0, -65536.0, torch.nan, -torch.inf, 0.0, 1.0])
    assert autoencoder._through(blocks, values[:4]).tolist() == [65504, 65505, 0, 0] and autoencoder.beyond is None
    autoencoder.beyond = []
    autoencoder._through(blocks, values)
    assert [share.item() for share in autoencoder.beyond] == [0.5, 0.25]


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.runs = nn.Parameter(torch.ones(2)), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return (self.weight * x).sin()


@pytest.mark.parametrize(("recompute", "training", "runs"), [(False, True, 1), (True, True, 2), (True, False, 1)])
def test_blocks_are_computed_again_in_training_where_that_is_asked_for(
    recompute: bool, training: bool, runs: int
) -> None:
    autoencoder, block = model().train(training), Counted()
    assert not autoencoder.recompute
    autoencoder.recompute = recompute
    autoencoder._through(nn.Sequential(block), torch.ones(2)).sum().backward()
    assert block.runs == runs and block.weight.grad is not None
