"""Small imitations of how people have ImageNet, each made by the format's own writer from the same JPEGs.

Names are as the formats' documentation shows them.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pipeline.data.ilsvrc import Ilsvrc, Synset, digest_ids
from tests.data.indexing import picture

WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")
_IDS = (2, 4, 1, 3)
_TRUTH = (1, 1, 3, 2, 4, 2)
"""ILSVRC2012_IDs of the validation images; both orders agree nowhere."""
NUM_TRAIN, NUM_VAL, NUM_TEST = 5, len(_TRUTH), 2
TABLE = Ilsvrc(
    tuple(Synset(wnid, number, NUM_TRAIN, f"{wnid}'s words") for wnid, number in zip(WNIDS, _IDS, strict=True)),
    NUM_VAL,
    NUM_TEST,
    digest_ids(_TRUTH),
)
_WNID_OF = dict(zip(_IDS, WNIDS, strict=True))
LABELS = [WNIDS.index(_WNID_OF[number]) for number in _TRUTH]
Files = list[tuple[str, int, bytes]]
"""Name, label and bytes of each image of a split."""


def contest_images() -> dict[str, Files]:
    """The images of a data set that passes for ImageNet with TABLE, in the order of their names."""
    made = iter(range(100))

    def jpeg() -> bytes:
        number, file = next(made), io.BytesIO()
        picture(40 + number % 9, 50 - number % 7, number).save(file, "JPEG", quality=90)
        return file.getvalue()

    train = [(f"{wnid}_{7 * n + 3}.JPEG", label, jpeg()) for label, wnid in enumerate(WNIDS) for n in range(NUM_TRAIN)]
    val = [(f"ILSVRC2012_val_{n:08d}.JPEG", label, jpeg()) for n, label in enumerate(LABELS, start=1)]
    test = [(f"ILSVRC2012_test_{n:08d}.JPEG", -1, jpeg()) for n in range(1, NUM_TEST + 1)]
    return {"train": train, "val": val, "test": test}


def class_folders(root: Path, images: dict[str, Files]) -> None:
    """As the usual script and torchvision's ImageNet leave them."""
    for split in ("train", "val"):
        for name, label, content in images[split]:
            _write(root / split / WNIDS[label] / name, content)
    for name, _, content in images["test"]:
        _write(root / "test" / name, content)


def torchvision_prepared(root: Path, images: dict[str, Files]) -> None:
    """With what torchvision leaves beside the folders."""
    class_folders(root, images)
    _write(root / "meta.bin", b"PK\3\4")
    devkit(root)


def devkit(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        text = "".join(f"{number}\n" for number in _TRUTH).encode()
        add(tar, "ILSVRC2012_devkit_t12/readme.txt", b"read me")
        add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", text)


def downloads(root: Path, images: dict[str, Files]) -> None:
    devkit(root)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid, inner in _class_tars(images["train"]):
            add(outer, f"{wnid}.tar", inner)
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
        for name, _, content in images["val"]:
            add(tar, name, content)
    with tarfile.open(root / "ILSVRC2012_img_test_v10102019.tar", "w") as tar:
        for name, _, content in images["test"]:
            add(tar, f"test/{name}", content)


def outer_unpacked(root: Path, images: dict[str, Files]) -> None:
    """The training download unpacked once, validation images flat."""
    devkit(root)
    for wnid, inner in _class_tars(images["train"]):
        _write(root / "train" / f"{wnid}.tar", inner)
    for split in ("val", "test"):
        for name, _, content in images[split]:
            _write(root / split / name, content)


def kaggle(root: Path, images: dict[str, Files]) -> None:
    base = root / "ILSVRC" / "Data" / "CLS-LOC"
    for name, label, content in images["train"]:
        _write(base / "train" / WNIDS[label] / name, content)
    for split in ("val", "test"):
        for name, _, content in images[split]:
            _write(base / split / name, content)
    rows = [
        (Path(name).stem, f"{WNIDS[label]} 10 20 30 40 {WNIDS[label]} 1 2 3 4 ") for name, label, _ in images["val"]
    ]
    with (root / "LOC_val_solution.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("ImageId", "PredictionString"))
        table.writerows(rows[::2] + rows[1::2][::-1])
    lines = "".join(f"{synset.wnid} {synset.words}\n" for synset in TABLE.synsets)
    (root / "LOC_synset_mapping.txt").write_text(lines)


def webdataset(root: Path, images: dict[str, Files], json_alone: bool = False) -> None:
    """As timm/imagenet-1k-wds has them: shuffled, three files a sample."""
    root.mkdir(parents=True, exist_ok=True)
    for split, word in (("train", "train"), ("val", "validation")):
        for number, part in enumerate(_parts(images[split])):
            with tarfile.open(root / f"imagenet1k-{word}-{number:04d}.tar", "w") as tar:
                for name, label, content in part:
                    key = Path(name).stem
                    fields = {"label": label, "width": 40, "height": 40, "filename": name}
                    if not json_alone:
                        add(tar, f"{key}.cls", str(label).encode())
                    add(tar, f"{key}.jpg", content)
                    add(tar, f"{key}.json", json.dumps(fields).encode())


def webdataset_json(root: Path, images: dict[str, Files]) -> None:
    webdataset(root, images, json_alone=True)


def webdataset_without_names(root: Path, images: dict[str, Files]) -> None:
    """Keys are numbers, as in our own shards."""
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for number, part in enumerate(_parts(images[split])):
            with tarfile.open(root / split / f"{number:05d}.tar", "w") as tar:
                for row, (_, label, content) in enumerate(part):
                    add(tar, f"{row:08d}.jpg", content)
                    add(tar, f"{row:08d}.cls", str(label).encode())


def parquet(root: Path, images: dict[str, Files], with_names: bool = True) -> None:
    """As ILSVRC/imagenet-1k on Hugging Face has them: shuffled, names with the class appended."""
    for split, word in (("train", "train"), ("val", "validation"), ("test", "test")):
        parts = _parts(images[split])
        for number, part in enumerate(parts):
            rows = [(_hub_name(name, label) if with_names else None, label, content) for name, label, content in part]
            words = [synset.words for synset in TABLE.synsets]
            write_parquet(root / "data" / f"{word}-{number:05d}-of-{len(parts):05d}.parquet", rows, words)


def parquet_without_names(root: Path, images: dict[str, Files]) -> None:
    parquet(root, images, with_names=False)


def write_parquet(path: Path, rows: Sequence[tuple[str | None, int, bytes]], class_names: Sequence[str]) -> None:
    """With the columns and the description that Hugging Face's datasets library writes."""
    import pyarrow
    import pyarrow.parquet

    features = {"image": {"_type": "Image"}, "label": {"names": list(class_names), "_type": "ClassLabel"}}
    cells = [{"bytes": content, "path": name} for name, _, content in rows]
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = [pyarrow.array(cells, struct), pyarrow.array([label for _, label, _ in rows], pyarrow.int64())]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.table(columns, schema=pyarrow.schema([("image", struct), ("label", pyarrow.int64())], metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=3)


def tiny_imagenet(root: Path, images: dict[str, Files]) -> None:
    """cs231n's tiny-imagenet-200: other names, boxes beside the images, a table for val."""
    for row, (_, label, content) in enumerate(images["train"]):
        wnid = WNIDS[label]
        _write(root / "train" / wnid / "images" / f"{wnid}_{row}.JPEG", content)
        _write(root / "train" / wnid / f"{wnid}_boxes.txt", b"")
    lines = []
    for row, (_, label, content) in enumerate(images["val"]):
        _write(root / "val" / "images" / f"val_{row}.JPEG", content)
        lines.append(f"val_{row}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))


NAMED: dict[str, Callable[[Path, dict[str, Files]], None]] = {
    "torchvision": torchvision_prepared,
    "downloads": downloads,
    "outer_unpacked": outer_unpacked,
    "kaggle": kaggle,
    "webdataset": webdataset,
    "webdataset_json": webdataset_json,
    "parquet": parquet,
}
"""Those that keep the canonical names."""


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _class_tars(train: Files) -> Iterable[tuple[str, bytes]]:
    for label, wnid in enumerate(WNIDS):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as inner:
            for name, of, content in train:
                if of == label:
                    add(inner, name, content)
        yield wnid, file.getvalue()


def _parts(files: Files) -> list[Files]:
    """Two files a split, in an order that is none of the index's."""
    shuffled = sorted(files, key=lambda row: row[2][-40:])
    middle = (len(shuffled) + 1) // 2
    return [shuffled[:middle], shuffled[middle:]]


def _hub_name(name: str, label: int) -> str:
    return name if label < 0 else f"{Path(name).stem}_{WNIDS[label]}.JPEG"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
