"""How many faces YuNet finds, and where, by the square that a picture is laid on: the table in shards/detector.py.

python tests/benchmarks/detector.py MODEL.onnx "FER2013Train/*.png" 40 takes every 40th of these files.
"""

import glob
import sys
import time

import cv2
import numpy as np

BLACK, REPLICATED, REFLECTED = cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101
WAYS = {  # side of the square, None: the picture as it is; border on each side, as a share of the picture; its kind
    "as it is": (None, 0, BLACK),
    "224, none": (224, 0, BLACK),
    "224, 10 % black": (224, 0.1, BLACK),
    "256, none": (256, 0, BLACK),
    "320, none": (320, 0, BLACK),
    "320, 15 % black": (320, 0.15, BLACK),
    "320, 25 % black": (320, 0.25, BLACK),
    "320, 25 % replicated": (320, 0.25, REPLICATED),
    "320, 25 % reflected": (320, 0.25, REFLECTED),
    "640, none": (640, 0, BLACK),
}


def main(model: str, pattern: str, every: str) -> None:
    cv2.setNumThreads(1)
    net = cv2.FaceDetectorYN.create(model, "", (320, 320), 0.6, 0.3)
    pictures = [cv2.imread(file) for file in sorted(glob.glob(pattern))[:: int(every)]]
    print(f"{len(pictures)} pictures, OpenCV {cv2.__version__}")
    for name, (square, border, kind) in WAYS.items():
        boxes, several, began = [], 0, time.process_time()
        for picture in pictures:
            height, width = picture.shape[:2]
            scale = square / (1 + 2 * border) / max(height, width) if square else 1.0
            size = round(width * scale), round(height * scale)
            side = square or max(size)
            left, top = (side - size[0]) // 2, (side - size[1]) // 2
            how = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
            laid = cv2.copyMakeBorder(
                cv2.resize(picture, size, interpolation=how),
                top, side - size[1] - top, left, side - size[0] - left, kind,
            )  # fmt: skip
            net.setInputSize((side, side))
            rows = net.detect(laid)[1]
            if rows is not None:
                x, y, w, h = rows[0, :4]
                box = (x - left) / size[0], (y - top) / size[1], (x + w - left) / size[0], (y + h - top) / size[1]
                boxes.append(np.clip(box, 0, 1))
                several += len(rows) > 1
        ms = (time.process_time() - began) / len(pictures) * 1e3
        found, more = 100 * len(boxes) / len(pictures), 100 * several / len(pictures)
        median = " ".join(f"{x:.2f}" for x in np.median(boxes, axis=0)) if boxes else "none"
        print(f"{name:<22} found {found:5.1f} %  several {more:4.1f} %  {ms:5.1f} ms  median box {median}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
