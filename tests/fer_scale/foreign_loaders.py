"""Run by tests/compatibility.py: load published models with plain timm and transformers, and print how far they differ.

    python foreign_loaders.py CASES.json

A case names an encoder and an expression model, each as a folder and as a repository on the Hub at HF_ENDPOINT; here
lies face.jpg. The code in the cards, where there are some, is run as it is printed there, over this photo and over the
grey one in the folder `grey`. A case may name a folder for its traps. Ours is imported last: the others must not need
it.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
from traps import sprung

Said = dict[str, list[tuple[str, torch.Tensor]]]  # column -> (what was asked, the answer)
Asked = dict[str, torch.Tensor]  # what is asked -> pictures [B, 3, px, px], normalised


def main(file: str) -> None:
    torch.manual_seed(0)
    face = Image.open("face.jpg").convert("RGB")
    cases = json.loads(Path(file).read_text())
    foreign, snippets, names = [], 0, {}
    for case in cases:
        for kind in ("encoder", "expressions"):
            asked, said = _load(case[kind], case["sizes"], face, is_encoder=kind == "encoder")
            foreign.append((case["name"], case[kind]["folder"], asked, said))
            snippets += _run_snippets(case[kind]["folder"])
        labels = AutoModelForImageClassification.from_pretrained(case["expressions"]["folder"]).config.id2label
        names[case["name"]] = [labels[index] for index in range(len(labels))]
    traps = {}
    for case in cases:
        if case.get("traps"):
            traps = sprung(*(Path(case[kind]["folder"]) for kind in ("encoder", "expressions")), Path(case["traps"]))

    differences: dict[str, dict[str, float]] = {case["name"]: {} for case in cases}
    for name, folder, asked, said in foreign:
        ours = _ours(folder, asked, said)
        for column, answers in said.items():
            found = max(_difference(answer, ours[what]) for what, answer in answers)
            differences[name][column] = max(found, differences[name].get(column, 0.0))
    print(json.dumps({"differences": differences, "names": names, "snippets": snippets, "traps": traps}))


def _load(place: dict[str, str], sizes: list[int], face: Image.Image, *, is_encoder: bool) -> tuple[Asked, Said]:
    """What is asked of a model, and what timm and transformers answer."""
    folder, repo = place["folder"], place["repo"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    inputs = transform(face)[None]
    asked = {"face": inputs, "faces": torch.cat([inputs, torch.randn(3, *inputs.shape[1:])])}
    asked |= {str(px): torch.randn(2, 3, px, px) for px in sizes}
    said: Said = {"timm `local-dir:`": [(what, model(asked[what])) for what in ("face", "faces")]}
    assert said["timm `local-dir:`"][0][1].std() > 0.01, "a model that says nothing would agree with anything"
    del model

    for column, name in (("timm `hf-hub:`", f"hf-hub:{repo}"), ("timm `@v1`", f"hf-hub:{repo}@v1")):
        said[column] = [("faces", timm.create_model(name, pretrained=True).eval()(asked["faces"]))]
    said["timm, other sizes"] = []
    for px in map(str, sizes):
        other = timm.create_model(f"hf-hub:{repo}", pretrained=True, img_size=int(px)).eval()
        said["timm, other sizes"].append((px, other(asked[px])))
    said["`AutoImageProcessor`"] = [
        ("pixels", AutoImageProcessor.from_pretrained(where)(face, return_tensors="pt")["pixel_values"])
        for where in (folder, repo)
    ]
    said |= (_auto_model if is_encoder else _auto_classifier)(folder, repo, sizes, asked)
    said["`pipeline`"] = [("face", (_features if is_encoder else _scores)(where, face)) for where in (folder, repo)]
    return asked, said


def _auto_model(folder: str, repo: str, sizes: list[int], asked: Asked) -> Said:
    said: Said = {"`AutoModel`": [], "`AutoModel`, other sizes": []}
    for where in (folder, repo):
        output = _aligned(AutoModel.from_pretrained(where).eval())(asked["faces"])
        said["`AutoModel`"] += [("faces", output.pooler_output), ("tokens", output.last_hidden_state)]
    args = json.loads((Path(folder) / "config.json").read_text())["model_args"]
    any_size = _aligned(AutoModel.from_pretrained(repo, model_args=args | {"dynamic_img_size": True}).eval())
    said["`AutoModel`, other sizes"] = [(str(px), any_size(asked[str(px)]).pooler_output) for px in sizes]
    return said


def _auto_classifier(folder: str, repo: str, sizes: list[int], asked: Asked) -> Said:
    models = [_aligned(AutoModelForImageClassification.from_pretrained(where).eval()) for where in (folder, repo)]
    return {"`AutoModelForImageClassification`": [("faces", model(asked["faces"]).logits) for model in models]}


def _features(where: str, face: Image.Image) -> torch.Tensor:
    extract = pipeline("image-feature-extraction", model=where)
    _aligned(extract.model)
    return torch.tensor(extract(face, pool=True))


def _scores(where: str, face: Image.Image) -> torch.Tensor:
    classify = pipeline("image-classification", model=where)
    _aligned(classify.model)
    names = classify.model.config.id2label
    said = classify(face, top_k=len(names), function_to_apply="none")  # the softmax is its own, in numpy
    scores = {answer["label"]: answer["score"] for answer in said}
    return torch.tensor([[scores[names[index]] for index in range(len(names))]])


def _ours(folder: str, asked: Asked, said: Said) -> Asked:
    """Our answers to the same."""
    from fer_scale import encoder

    needed = {what for answers in said.values() for what, _ in answers}
    model: Any = encoder.load(Path(folder))[0].eval()
    answers = {what: model(asked[what]) for what in ("face", "faces")}
    answers |= {"pixels": asked["face"]} | (
        {"tokens": model.forward_features(asked["faces"])} if "tokens" in needed else {}
    )
    for what in needed - answers.keys():
        answers[what] = encoder.load(Path(folder), image_px=int(what))[0].eval()(asked[what])
    return answers


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape, (one.shape, other.shape)
    return float((one - other).abs().max())


def _run_snippets(folder: str) -> int:
    """How many pieces of Python stand in the card, if there is one; each is run."""
    card = Path(folder) / "README.md"
    pieces = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL) if card.exists() else []
    for here in (".", "grey") if pieces else ():
        os.chdir(here)
        for piece in pieces:
            exec(piece, {})
        os.chdir("." if here == "." else "..")
    return len(pieces)


def _aligned(model: Any) -> Any:
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
