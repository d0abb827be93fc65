"""The words of a card that are the same for all models: what they are for, and what they must not be used for."""

WHAT_ENCODER = """\
A Vision Transformer that learned from unlabeled faces, as a masked autoencoder (He et al. 2022, arXiv:2111.06377; for
faces Song et al. 2024, arXiv:2410.17622). It turns a face crop into features, and is meant to be fine-tuned to
recognise facial expressions from few labels. It is no classifier, and it was not trained to tell people apart."""

WHAT_EXPRESSION = """\
A classifier of facial expressions in face crops. It says how a face looks, as annotators named it; it does not say what
a person feels, thinks or intends, and it is not a lie detector."""

# Five lines at most; the tests run them as they are printed.
TIMM = """\
import timm
from PIL import Image
model = timm.create_model("hf-hub:{name}", pretrained=True).eval().requires_grad_(False)
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
{last}"""

TRANSFORMERS = """\
from PIL import Image
from transformers import pipeline
pipe = pipeline("{task}", model="{name}")
{last}"""

USAGE = """\
It takes square face crops only, not whole photos: {px} x {px} px, RGB (without `.convert("RGB")` grey pictures fail).

```python
{timm}
```

```python
{transformers}
```

`{name}` stands for its newest version; for one that stays, name a commit or tag: `hf-hub:{name}@COMMIT` in timm,
`revision="COMMIT"` in transformers. From a folder: `local-dir:PATH` in timm, the path in transformers. Other classes of
transformers (`ViTModel`) load it without a complaint and with random weights: use `pipeline`, `AutoModel` or timm."""

FINETUNE = """\
Fine-tune it with `fer-scale finetune RECIPE model.start_from=hf://{name}`."""

PREDICT = """\
On photos: `fer-scale predict hf://{name} photo.jpg` finds the faces (the extra `faces`, OpenCV) and crops them as in
training; on pictures that are such crops themselves: `fer-scale predict hf://{name} face.jpg --faces whole`."""

VERIFY = """\
`fer-scale pull hf://{name} FOLDER` checks every file but this card against `manifest.json`, and with `--key PUB.pem`
that the owner of that key signed them (where there is a `model.sig`)."""

UNKNOWN_BASE = """\
{who} trained on other images; they stand in the card of {name}, and are not listed here."""

UNRECORDED_BASE = """\
{who} trained on other images, which are not recorded here: all that is known of it is its folder's name, {name}."""

DECODER = """\
`decoder.safetensors` is the decoder of the masked autoencoder, for those who go on with its pre-training:
`model.start_from=hf://{name} model.start_decoder=true` in a recipe of fer_scale. It is of no other use, and it fills in
faces as those of the training data looked."""

LIMITS = """\
Meant for research on facial expressions, and as a start for models that are evaluated for the purpose at hand. Before
any use on people, measure it on the people, cameras and situations that it will meet, by group.

- A facial expression is not a feeling. How expressions are shown and named depends on person, culture and situation;
  the labels are the opinion of annotators.
- Not a lie detector, and no measure of character, health, attention or intent.
- Not for use at the workplace or in schools: in the European Union inferring emotions there is prohibited (see below).
- Not for decisions about people (hiring, education, insurance, policing, health, border control), not for identifying
  or tracking them, and not for watching them without their knowledge and consent.
- Face datasets are unbalanced in age, gender and skin tone, and most of their people were never asked. No results by
  group are given here unless they stand below; expect unequal errors. Rare expressions (contempt, disgust, fear) are
  recognised worst.
- Trained on images of faces, a model may remember some of them: treat the weights as data about people.
- Small, blurred, turned or partly hidden faces, and other crops than those of training, cost accuracy.

In the European Union (Regulation 2024/1689, the AI Act; this is no legal advice): inferring emotions at the workplace
and in education has been prohibited since 2 February 2025, but for medical and safety reasons (Article 5(1)(f)); other
emotion recognition is high-risk (Annex III), and people who are exposed to it must be told (Article 50(3)). Images by
which people can be identified are personal data under the GDPR."""

CONSENT = """\
What the people in these images have agreed to is not recorded here. No image is part of this repository{but}."""

TERMS = {  # what a published set asks for, by a word in its name or in the layout that it was packed from
    "affectnet": "AffectNet is given to leaders of academic groups who sign its licence, for research only.",
    "rafdb|raf-db": "RAF-DB is given for non-commercial research; neither it nor what is made of it may be passed on.",
    "ms1m|celeb-1m": "MS-Celeb-1M was withdrawn by its publisher in 2019, after criticism that its people had not been "
    "asked; sets made from it inherit that.",
}

CONTACT = """\
Are you in the data and want to be taken out, or have you found a fault of this model or of this card? Write to {where},
and say which images or which results. What is taken down or corrected stands in the card of the next version; weights
forget a picture only when they are trained again without it."""

LICENCE_FILE = """\
The licence of the weights in this repository, as their publisher states it:

    {licence}

The licences of the images and weights that they were made of stand in README.md, and may ask for more.
"""
