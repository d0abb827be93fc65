"""Run by test_compatibility.py: load published models with plain timm and transformers, and print how far they differ.

    python foreign_loaders.py ENCODER_FOLDER ENCODER_NAME EXPRESSION_FOLDER EXPRESSION_NAME

A name is that of a repository on the Hub at HF_ENDPOINT; here lies face.jpg. The code in the cards is run as it is
printed there. Ours is imported last: the others must not need it.
"""

import json
import re
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

differences: dict[str, float] = {}


def compare(name: str, one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.shape == other.shape, (name, one.shape, other.shape)
    differences[name] = (one - other).abs().max().item()


def main(encoder_folder: str, encoder_name: str, expression_folder: str, expression_name: str) -> None:
    torch.manual_seed(0)
    face = Image.open("face.jpg").convert("RGB")
    features = _encoder(encoder_folder, encoder_name, face)
    logits, names = _expression(expression_folder, expression_name, face)
    snippets = _run_snippets(encoder_folder) + _run_snippets(expression_folder)

    from fer_scale import encoder

    for what, folder, (inputs, foreign) in (
        ("encoder", encoder_folder, features),
        ("expression model", expression_folder, logits),
    ):
        ours, _ = encoder.load(Path(folder))
        compare(f"{what}: ours", foreign, ours.eval()(inputs))
    print(json.dumps({"differences": differences, "names": names, "snippets": snippets}))


Pair = tuple[torch.Tensor, torch.Tensor]


def _encoder(folder: str, name: str, face: Image.Image) -> Pair:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    inputs = torch.cat([transform(face)[None], torch.randn(3, *transform(face).shape)])
    features, tokens = model(inputs), model.forward_features(inputs)

    compare("encoder: timm hf-hub:", features, timm.create_model(f"hf-hub:{name}", pretrained=True).eval()(inputs))
    for place in (folder, name):
        where = "folder" if place == folder else "Hub"
        output = AutoModel.from_pretrained(place).eval()(inputs)
        compare(f"encoder: AutoModel, {where}, pooled", features, output.pooler_output)
        compare(f"encoder: AutoModel, {where}, tokens", tokens, output.last_hidden_state)
        processed = AutoImageProcessor.from_pretrained(place)(face, return_tensors="pt")["pixel_values"]
        compare(f"encoder: AutoImageProcessor, {where}", inputs[:1], processed)
        pooled = pipeline("image-feature-extraction", model=place)(face, pool=True)
        compare(f"encoder: pipeline image-feature-extraction, {where}", model(inputs[:1]), torch.tensor(pooled))
    return inputs, features


def _expression(folder: str, name: str, face: Image.Image) -> tuple[Pair, list[str]]:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    inputs = transform(face)[None]
    logits = model(inputs)
    assert logits.std() > 0.01, "a head that says nothing would agree with anything"

    compare(
        "expression model: timm hf-hub:", logits, timm.create_model(f"hf-hub:{name}", pretrained=True).eval()(inputs)
    )
    for place in (folder, name):
        where = "folder" if place == folder else "Hub"
        whole = _aligned(AutoModelForImageClassification.from_pretrained(place).eval())
        names = [whole.config.id2label[index] for index in range(logits.shape[1])]
        compare(f"expression model: AutoModelForImageClassification, {where}", logits, whole(inputs).logits)
        classify = pipeline("image-classification", model=place)
        _aligned(classify.model)
        said = classify(face, top_k=len(names), function_to_apply="none")  # the softmax is its own, in numpy
        scores = {answer["label"]: answer["score"] for answer in said}
        found = torch.tensor([[scores[label] for label in names]])
        compare(f"expression model: pipeline image-classification, {where}", logits, found)
    return (inputs, logits), names


def _run_snippets(folder: str) -> int:
    """How many pieces of Python stand in the card; each is run."""
    pieces = re.findall(r"```python\n(.*?)```", (Path(folder) / "README.md").read_text(), re.DOTALL)
    for piece in pieces:
        exec(piece, {})
    return len(pieces)


def _aligned(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its weights copied to where torch would put them.

    transformers leaves them where they lie in the file, at any multiple of 4 bytes; for a batch of one the product of
    matrix and vector then adds in another order, which moves logits by up to 1e-6. The weights are equal; so are the
    results once they lie alike.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


if __name__ == "__main__":
    with torch.no_grad():
        main(*sys.argv[1:])
