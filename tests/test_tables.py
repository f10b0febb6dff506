"""Tables: what `datasets` and others write is recognized and read, picture by picture; what is damaged is refused."""

import builtins
import contextlib
import io
import json
import multiprocessing
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasvir.config import Refused
from tasvir.data import rows, tables
from tasvir.data.decoding import Unreadable

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(seed: int, size: int = 12) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


PICTURES = [png(seed) for seed in range(40)]


def image_struct(pictures: list[bytes | None]) -> "pa.Array":
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(pictures)], kind)


def parquet(
    path: Path, count: int = 40, first: int = 0, groups: int = 8, metadata: dict | None = None, **columns
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not columns:
        columns = {"image": image_struct(PICTURES[first : first + count])}
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})
    pq.write_table(table, path, row_group_size=groups)
    return path


def contents(table: tables.Table) -> list[bytes]:
    return [table.content(number) for number in range(table.count)]


# What others write


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Folders and files written by `datasets` itself."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("saved")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog", "emu"]),
        }
    )
    written = {
        "image": [{"bytes": data, "path": None} for data in PICTURES],
        "caption": [f"caption {number}" for number in range(40)],
        "label": [number % 3 for number in range(40)],
    }
    one = datasets.Dataset.from_dict(written, features=features)
    one.save_to_disk(root / "one", num_shards=3)
    several = datasets.DatasetDict(
        train=one.select(range(20)), validation=one.select(range(20, 30)), test=one.select(range(30, 40))
    )
    several.save_to_disk(root / "several")
    one.select(range(39, -1, -1)).save_to_disk(root / "shuffled")
    (root / "hub" / "data").mkdir(parents=True)
    for split, part in several.items():
        part.to_parquet(root / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    return root


@pytest.mark.parametrize("name", ["one", "several", "shuffled", "hub", "hub/data/train-00000-of-00001.parquet"])
def test_what_datasets_writes_is_read(saved, name):
    path = saved / name
    assert tables.recognized(path)
    table = tables.read(path)
    expected = list(range(40))
    if name == "shuffled":
        expected.reverse()
    elif name == "hub":  # files come by name: test, train, validation
        expected = [*range(30, 40), *range(20), *range(20, 30)]
    elif name.endswith("parquet"):
        expected = list(range(20))
    assert contents(table) == [PICTURES[number] for number in expected]
    assert table.classes == ("cat", "dog", "emu")
    assert table.labels == [number % 3 for number in expected]
    assert table.attributes == ("label",)
    if name in ("several", "hub"):
        assert table.splits == ["train" if number < 20 else "test" for number in expected]
    else:
        assert table.splits is None


def test_an_arrow_file_alone_is_read(saved, tmp_path):
    file = next((saved / "shuffled").glob("*.arrow"))
    assert tables.recognized(file)
    assert contents(tables.read(file)) == PICTURES[::-1]
    written = pa.table({"image": pa.array(PICTURES)})
    for compression in (None, "lz4", "zstd"):
        with pa.ipc.new_file(
            tmp_path / "a.arrow", written.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
        ) as out:
            out.write_table(written, max_chunksize=7)
        assert contents(tables.read(tmp_path / "a.arrow")) == PICTURES
        with pa.ipc.new_stream(
            tmp_path / "b.arrow", written.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
        ) as out:
            out.write_table(written, max_chunksize=7)
        assert contents(tables.read(tmp_path / "b.arrow")) == PICTURES


def test_names_say_file_and_row(tmp_path):
    for number in range(2):
        parquet(tmp_path / "set" / f"train-0000{number}-of-00003.parquet", 20, 20 * number)
    table = tables.read(tmp_path / "set")
    assert table.count == len(table.names) == 40
    assert table.names[0] == "train-00000-of-00003.parquet row 0"
    assert table.names[37] == "train-00001-of-00003.parquet row 17"
    assert list(table.names[18:21])[2] == "train-00001-of-00003.parquet row 0"
    assert any("Only 2 of the 3 files of train" in note for note in table.notes)


def test_stamps_and_fingerprint_change_with_the_file(tmp_path):
    for number in range(2):
        parquet(tmp_path / "set" / f"{number}.parquet", 20, 20 * number)
    before = tables.read(tmp_path / "set")
    assert len(set(before.stamps.tolist())) == 40
    assert tables.read(tmp_path / "set").fingerprint == before.fingerprint
    parquet(tmp_path / "set" / "1.parquet", 10, 3)
    parquet(tmp_path / "set" / "2.parquet", 10, 5)
    after = tables.read(tmp_path / "set")
    assert after.fingerprint != before.fingerprint
    assert (after.stamps[:20] == before.stamps[:20]).all()
    assert not set(after.stamps[20:].tolist()) & set(before.stamps[20:].tolist())


# What is a table, and which column is what


def test_recognized_by_looking(tmp_path):
    def folder(name: str, *files: str) -> Path:
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(b"")
        return tmp_path / name

    assert tables.recognized(folder("a", "data/train-00000-of-00001.parquet", "README.md", "logo.png"))
    assert tables.recognized(folder("b", "x.parquet"))
    assert not tables.recognized(folder("c", "00000.tar", "00000.parquet", "00000_stats.json"))
    assert not tables.recognized(folder("d", "metadata.parquet", *[f"{n}.png" for n in range(20)]))
    assert not tables.recognized(folder("e", "1.png", ".hidden/x.parquet"))
    assert not tables.recognized(tmp_path / "nowhere")
    assert not tables.recognized(tmp_path / "a" / "logo.png")


def test_the_column_called_image_is_chosen(tmp_path):
    pictures = image_struct(PICTURES)
    path = parquet(
        tmp_path / "a.parquet", condition=image_struct(PICTURES[::-1]), image=pictures, other=pa.array(PICTURES)
    )
    table = tables.read(path)
    assert contents(table) == PICTURES
    assert any("column 'image'; condition, other left aside" in note for note in table.notes)


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_plain_binary_columns_are_pictures_too(tmp_path, kind):
    table = tables.read(parquet(tmp_path / "a.parquet", jpg=pa.array(PICTURES, getattr(pa, kind)())))
    assert contents(table) == PICTURES


def test_columns_of_one_name_are_not_guessed_between(tmp_path):
    written = pa.table(
        [pa.array(PICTURES[::-1]), pa.array(PICTURES[::-1]), pa.array(PICTURES)], ["image", "image", "photo"]
    )
    pq.write_table(written, tmp_path / "a.parquet")
    assert contents(tables.read(tmp_path / "a.parquet")) == PICTURES


def test_sound_is_no_picture(tmp_path):
    path = parquet(tmp_path / "a.parquet", metadata={"audio": {"_type": "Audio"}}, audio=image_struct(PICTURES))
    with pytest.raises(Refused, match="no column of pictures; it has audio"):
        tables.read(path)


@pytest.mark.parametrize(
    ("values", "classes", "labels"),
    [
        ([5, 7] * 20, ("5", "7"), [0, 1] * 20),
        (["b", "a"] * 20, ("a", "b"), [1, 0] * 20),
        ([True, False] * 20, ("False", "True"), [1, 0] * 20),
        ([f"caption {number}" for number in range(40)], (), None),
        ([None] * 40, (), None),
    ],
)
def test_columns_without_names_of_classes(tmp_path, values, classes, labels):
    kind = pa.string() if values[0] is None else None
    table = tables.read(parquet(tmp_path / "a.parquet", image=image_struct(PICTURES), label=pa.array(values, kind)))
    assert table.classes == classes
    assert table.labels == labels


def test_another_column_can_be_the_class(tmp_path):
    names = {"coarse": {"_type": "ClassLabel", "names": ["x", "y"]}}
    columns = {"coarse": pa.array([1, 0] * 20), "fine_label": pa.array([0, 1, 2, 3] * 10)}
    path = parquet(tmp_path / "a.parquet", metadata=names, image=image_struct(PICTURES), **columns)
    assert tables.read(path).attributes == ("fine_label", "coarse")
    assert tables.read(path).classes == ("0", "1", "2", "3")
    assert tables.read(path, "coarse").classes == ("x", "y")
    assert tables.read(path, "coarse").labels == [1, 0] * 20
    assert tables.read(path, "none").labels is None
    with pytest.raises(Refused, match=r"no column 'course'.*coarse"):
        tables.read(path, "course")


def test_rows_without_a_label_are_left_out_and_counted(tmp_path):
    names = {"label": {"_type": "ClassLabel", "names": ["x", "y"]}}
    labels = pa.array([0, 1, -1, None, 9, *[1] * 35])
    path = parquet(tmp_path / "a.parquet", metadata=names, image=image_struct(PICTURES), label=labels)
    table = tables.read(path)
    assert contents(table) == [PICTURES[0], PICTURES[1], *PICTURES[5:]]
    assert table.names[2].endswith("row 5")
    assert any(note.startswith("3 rows have no label") for note in table.notes)
    assert tables.read(path, "none").count == 40


def test_splits_need_both_and_others_are_said(tmp_path):
    for number, name in enumerate(("train-0", "extra-0", "val-0", "test_matched-0")):
        parquet(tmp_path / "set" / f"{name}.parquet", 10, 10 * number)
    table = tables.read(tmp_path / "set")
    by_name = dict(zip([name.split("-")[0] for name in table.names], table.splits, strict=True))
    assert by_name == {"train": "train", "extra": "train", "val": "test", "test_matched": "test"}
    assert any("Others" in note for note in table.notes)
    for file in (tmp_path / "set").glob("*t*.parquet"):
        file.unlink()
    assert tables.read(tmp_path / "set").splits is None  # only validation is left


# What is wrong


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = parquet(tmp_path / "a.parquet")
    known = builtins.__import__

    def missing(name, *args, **options):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return known(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(Refused, match=r"pip install 'tasvir\[hf\]'"):
        tables.read(path)


def test_a_damaged_file_is_named(tmp_path, saved):
    whole = parquet(tmp_path / "set" / "a.parquet").read_bytes()
    for name, data in {"b": b"", "c": whole[:-9], "d": b"PAR1" + bytes(60) + b"PAR1"}.items():
        path = tmp_path / "set" / f"{name}.parquet"
        path.write_bytes(data)
        with pytest.raises(Refused, match=rf"{name}\.parquet cannot be read as a table"):
            tables.read(tmp_path / "set")
        path.unlink()
    shutil.copytree(saved / "one", tmp_path / "one")
    arrow = sorted((tmp_path / "one").glob("*.arrow"))[1]
    arrow.write_bytes(arrow.read_bytes()[:900])
    with pytest.raises(Refused, match=arrow.name):
        tables.read(tmp_path / "one")
    arrow.unlink()
    with pytest.raises(Refused, match=f"lacks its file {arrow.name}"):
        tables.read(tmp_path / "one")


def test_a_missing_split_is_named(tmp_path, saved):
    shutil.copytree(saved / "several", tmp_path / "several")
    shutil.rmtree(tmp_path / "several" / "validation")
    with pytest.raises(Refused, match="lacks its split 'validation'"):
        tables.read(tmp_path / "several")


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "..", "", 3])
def test_state_leads_nowhere_else(tmp_path, saved, name):
    shutil.copytree(saved / "shuffled", tmp_path / "set" / "one")
    shutil.copy(next((saved / "shuffled").glob("*.arrow")), tmp_path / "set" / "secret.arrow")
    state = tmp_path / "set" / "one" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(Refused, match="names no data files"):
        tables.read(tmp_path / "set" / "one")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"splits": ["..", "x"]}', '{"splits": []}', "[" * 100_000])
def test_odd_json_is_refused(tmp_path, text):
    (tmp_path / "dataset_dict.json").write_text(text)
    with pytest.raises(Refused, match=r"dataset_dict\.json"):
        tables.read(tmp_path)


def test_rows_without_a_picture_are_named_one_by_one(tmp_path):
    pictures = [*PICTURES[:5], None, *PICTURES[6:]]
    table = tables.read(parquet(tmp_path / "a.parquet", image=image_struct(pictures)))
    with pytest.raises(Unreadable, match="no picture in this row"):
        table.content(5)
    assert table.content(6) == PICTURES[6]


def test_only_the_damaged_rows_are_lost(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": image_struct(PICTURES)}),
        path,
        row_group_size=10,
        write_page_checksum=True,
        compression="none",
    )
    data = bytearray(path.read_bytes())
    data[data.index(PICTURES[15]) + 60] ^= 255
    path.write_bytes(data)
    table, lost = tables.read(path), []
    for number in range(table.count):
        try:
            assert table.content(number) == PICTURES[number]
        except Unreadable as error:
            assert "damaged" in str(error)
            lost.append(number)
    assert lost == list(range(10, 20))


class Canary:
    def __reduce__(self):
        return print, ("a pickle was loaded",)


def test_nothing_is_unpickled(tmp_path, capsys):
    written = pa.table({"image": pa.array(PICTURES)})
    field = pa.field(
        "image",
        pa.binary(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(Canary()),
        },
    )
    schema = pa.schema([field])
    with pa.ipc.new_file(tmp_path / "a.arrow", schema) as out:
        out.write_table(pa.table([written.column(0)], schema=schema))
    assert contents(tables.read(tmp_path / "a.arrow")) == PICTURES
    assert "pickle" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_mutated_files_never_crash(tmp_path, kind):
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    written = pa.table({"image": image_struct(PICTURES[:8]), "label": pa.array(["a", "b"] * 4)})
    if kind == "parquet":
        pq.write_table(written, path, row_group_size=4)
    else:
        with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(path, written.schema) as out:
            out.write_table(written, max_chunksize=4)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        around = random.choice([0, len(data) - 1500]) if kind == "parquet" else random.integers(0, len(data) - 600)
        for _ in range(random.integers(1, 6)):
            data[(around + random.integers(0, 600)) % len(data)] = random.integers(0, 256)
        path.write_bytes(data[: random.integers(1, len(data))] if random.random() < 0.2 else data)
        try:
            table = tables.read(path)
        except Refused as error:
            assert path.name in str(error)
            refused += 1
            continue
        for number in range(min(table.count, 50)):
            try:
                table.content(number)
            except Unreadable:
                continue
    assert refused > 20


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_impossible_lengths_do_not_end_the_process(tmp_path, kind):
    """Wherever four, the number of rows, is written, a huge or negative number stands instead."""
    path = tmp_path / "a.arrow"
    written = pa.table({"image": image_struct(PICTURES[:4])})
    with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(path, written.schema) as out:
        out.write_table(written)
    whole, four, tried = path.read_bytes(), (4).to_bytes(8, "little"), 0
    place = whole.find(four)
    while place >= 0:
        for wrong in (-7, 5, 1 << 40, -(1 << 62)):
            path.write_bytes(whole[:place] + wrong.to_bytes(8, "little", signed=True) + whole[place + 8 :])
            tried += 1
            try:
                table = tables.read(path)
            except Refused:
                continue
            for number in range(min(table.count, 10)):
                with contextlib.suppress(Unreadable):
                    table.content(number)
        place = whole.find(four, place + 1)
    assert tried >= 8


# Order and memory


def test_in_order_nothing_is_laid_down(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(rows, "HELD", 4000)
    assert contents(tables.read(parquet(tmp_path / "a.parquet", groups=4))) == PICTURES
    assert not list(cache.rglob("*.arrow"))


def test_rows_out_of_order_are_laid_down_once(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(rows, "HELD", 4000)
    table = tables.read(parquet(tmp_path / "a.parquet", groups=4))
    order = np.random.default_rng(0).permutation(np.tile(np.arange(40), 3))
    for number in order:
        assert table.content(number) == PICTURES[number]
    laid_down = sorted(cache.rglob("*.arrow"))
    assert 8 <= len(laid_down) <= 10  # what still fits in memory stays there
    before = [file.stat().st_mtime_ns for file in laid_down]
    again = tables.read(tmp_path / "a.parquet")
    assert [again.content(number) for number in order] == [PICTURES[number] for number in order]
    assert [file.stat().st_mtime_ns for file in laid_down] == before
    assert {file.suffix for file in cache.rglob("*") if file.is_file()} <= {".arrow", ".lock"}


@pytest.mark.parametrize("page", [20, 500])
def test_large_row_groups_are_never_held(tmp_path, cache, monkeypatch, page):
    """One row group of 24 MB in pages of 1 MB, or in one page, of which a process may hold 2 MB."""
    monkeypatch.setattr(rows, "HELD", 2 << 20)
    random = np.random.default_rng(0)
    pictures = [random.bytes(48_000) for _ in range(500)]
    written = pa.table({"image": image_struct(pictures)})
    pq.write_table(written, tmp_path / "a.parquet", row_group_size=500, write_batch_size=page, data_page_size=1 << 20)
    del written
    table = tables.read(tmp_path / "a.parquet")
    before, most, files = pa.total_allocated_bytes(), 0, rows.ParquetFile.arrays

    def watched(*args):
        nonlocal most
        for array in files(*args):
            most = max(most, pa.total_allocated_bytes() - before)
            yield array

    monkeypatch.setattr(rows.ParquetFile, "arrays", watched)
    for number in random.permutation(500):
        assert table.content(number) == pictures[number]
    assert 0 < most < (12 << 20 if page == 20 else 100 << 20)  # pages, packed and not, and two lots of rows
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert len(list(cache.rglob("*.arrow"))) == 1


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_only_mapped_rows_take_no_memory(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(rows, "HELD", 100_000)
    written = pa.table({"image": image_struct([png(seed, 64) for seed in range(100)])})
    with pa.ipc.new_file(
        tmp_path / "a.arrow", written.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as out:
        out.write_table(written, max_chunksize=5)
    table, expected = tables.read(tmp_path / "a.arrow"), written.column(0).to_pylist()
    before = pa.total_allocated_bytes()
    for number in range(100):
        assert table.content(number) == expected[number]["bytes"]
        assert pa.total_allocated_bytes() - before < (250_000 if compression else 10_000)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "HELD", 1000)
    table = tables.read(parquet(tmp_path / "a.parquet"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(Refused, match="TASVIR_CACHE"):
        table.content(0)
    monkeypatch.undo()


def test_threads_do_not_disturb_each_other(saved):
    table = tables.read(next((saved / "one").glob("*.arrow")))
    expected = contents(table)
    orders = [np.random.default_rng(thread).integers(0, table.count, 2000) for thread in range(4)]

    def read(order: np.ndarray) -> bool:
        return all(table.content(number) == expected[number] for number in order)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, orders)) == [True] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
@pytest.mark.parametrize("held", [1000, 32 << 20])
def test_forked_workers_read_what_their_parent_does(tmp_path, monkeypatch, held):
    monkeypatch.setattr(rows, "HELD", held)
    table = tables.read(parquet(tmp_path / "a.parquet", groups=7))
    table.content(3)  # the parent has files open and rows in memory
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def read(worker: int) -> None:
        order = np.random.default_rng(worker).permutation(40)
        answers.put(all(table.content(number) == PICTURES[number] for number in order))

    workers = [context.Process(target=read, args=(worker,)) for worker in range(3)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=30) for _ in workers] == [True] * 3
    for worker in workers:
        worker.join()
