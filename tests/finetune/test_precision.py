"""What half the precision changes: the speed, and hardly the answers."""

import timm
import torch

from fer_scale.finetune.processes import join


def test_half_precision_on_a_processor_takes_attention_apart_and_answers_nearly_the_same() -> None:
    """torch's fused attention of a CPU has a backward pass in bf16 that takes nine times as long."""
    torch.manual_seed(0)
    args = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_base_patch16_224", **args).eval()
    pictures = torch.randn(5, 3, 16, 16)
    exact = model(pictures)
    here = join("bf16")
    settled = here.settle(model)
    with here.autocast():
        found = settled(pictures).float()
    assert [block.attn.fused_attn for block in settled.blocks] == [False, False]
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()
