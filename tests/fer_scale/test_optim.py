"""Learning rates and parameter groups."""

import pytest
import timm

from fer_scale import encoder, optim


def test_the_rate_rises_to_its_peak_and_falls_along_half_a_cosine() -> None:
    rates = [optim.lr_at(step, peak=2.0, warmup_steps=4, steps=12) for step in range(13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0 and rates[8] == pytest.approx(1.0) and rates[12] == 0.0
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert optim.lr_at(0, peak=1.0, warmup_steps=0, steps=5) == 1.0


def test_a_rate_can_begin_and_end_above_zero_and_stays_where_it_ended() -> None:
    rates = [optim.lr_at(step, peak=1.0, warmup_steps=2, steps=6, start=0.5, end=0.2) for step in range(9)]
    assert rates[:3] == [0.75, 1.0, 1.0] and rates[4] == pytest.approx(0.6)
    assert rates[6:] == pytest.approx([0.2, 0.2, 0.2])


def test_matrices_decay_and_the_rest_does_not() -> None:
    model = encoder.build("32x2x2", image_px=16, patch_px=8)
    groups = optim.parameter_groups(model, 0.05)
    decay, none = sorted(groups, key=lambda g: -g["weight_decay"])
    assert {p.squeeze().ndim for p in decay["params"]} == {2, 4}
    assert {p.squeeze().ndim for p in none["params"]} == {1} and none["weight_decay"] == 0.0
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert len(frozen) == 1 and all(p is not frozen[0] for g in groups for p in g["params"])


def test_positions_that_are_trained_do_not_decay() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=2, depth=1)
    decaying = {id(p) for g in optim.parameter_groups(model, 0.05) if g["weight_decay"] for p in g["params"]}
    assert model.pos_embed.requires_grad and id(model.pos_embed) not in decaying
    assert id(model.blocks[0].attn.qkv.weight) in decaying


def test_deeper_layers_learn_slower_by_the_decay_each() -> None:
    model = encoder.build("32x2x2", image_px=16, patch_px=8)
    model.reset_classifier(3)
    groups = optim.parameter_groups(model, 0.05, layer_decay=0.5, layers=2)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    assert scale[id(model.head.weight)] == 1.0 and scale[id(model.norm.weight)] == 1.0
    assert scale[id(model.blocks[1].attn.qkv.weight)] == 0.5
    assert scale[id(model.blocks[0].mlp.fc1.bias)] == 0.25
    assert scale[id(model.patch_embed.proj.weight)] == scale[id(model.cls_token)] == 0.125
