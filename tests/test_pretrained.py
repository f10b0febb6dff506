"""Published weights: fetched once, checked, and files given in their place."""

import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from tasvir.config import Refused
from tasvir.nn import pretrained

SHAPES = {"features.0.weight": (4, 3), "features.0.bias": (4,)}
ROW = "VGG19_Weights"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision's weights lie, in a folder of the test's own."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def some(**others: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in SHAPES.items()} | others


class TestFetch:
    def test_weights_are_fetched_once_and_checked_each_time(
        self, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.save(some(), tmp_path / "made.pth")
        digest = hashlib.sha256((tmp_path / "made.pth").read_bytes()).hexdigest()
        afar = (tmp_path / "made.pth").rename(tmp_path / f"random-{digest[:8]}.pth")
        mine = here / afar.name
        monkeypatch.setattr(pretrained, "place", lambda weights: (afar.as_uri(), mine))
        assert not pretrained.at_hand(ROW)
        assert pretrained.fetch(ROW, "A test") == mine
        assert mine.read_bytes() == afar.read_bytes()
        assert pretrained.at_hand(ROW)
        assert pretrained.is_published(ROW, afar)
        assert pretrained.tensors(ROW, SHAPES, None, "A test")["features.0.bias"].equal(some()["features.0.bias"])
        mine.write_bytes(mine.read_bytes()[:1000])
        with pytest.raises(Refused, match=f"is damaged.*not with {digest[:8]}"):
            pretrained.fetch(ROW, "A test")
        mine.unlink()
        afar.write_bytes(afar.read_bytes()[:1000])
        with pytest.raises(Refused, match="could not be fetched"):
            pretrained.fetch(ROW, "A test")
        assert not mine.exists()

    def test_without_a_network_it_says_what_from_where_to_where_and_what_else_works(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(*_: object) -> None:
            raise URLError("no network")

        monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
        with pytest.raises(Refused) as refused:
            pretrained.tensors(ROW, SHAPES, None, "SRGAN", "--model.content pixels works without.")
        first, second = str(refused.value).splitlines()
        assert "SRGAN needs vgg19-dcbb9e9d.pth" in first
        assert "no network" in first
        assert "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth" in second
        assert str(here) in second
        assert "begin with dcbb9e9d" in second
        assert second.endswith("--model.content pixels works without.")


class TestGiven:
    @pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
    def test_all_kinds_of_files_are_read(self, tmp_path: Path, kind: str) -> None:
        """torchvision's VGG is in the format of PyTorch before 1.6, which cannot be mapped into memory."""
        file, values = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth"), some(other=torch.ones(1))
        if kind == "safetensors":
            save_file(values, file)
        else:
            torch.save(values, file, _use_new_zipfile_serialization=kind == "zip")
        found = pretrained.tensors(ROW, SHAPES, file, "A test")
        assert list(found) == list(SHAPES)
        assert all(found[name].equal(values[name]) for name in SHAPES)
        assert not pretrained.is_published(ROW, file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(Refused, match="is damaged"):
            pretrained.tensors(ROW, SHAPES, file, "A test")

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"features.0.weight": torch.ones(4, 3)}, "has no tensor features.0.bias"),
            (some() | {"features.0.weight": torch.ones(4, 4)}, r"has the shape \(4, 4\) and not \(4, 3\)"),
            (some() | {"features.0.bias": torch.full((4,), torch.nan)}, "not finite"),
            ([1, 2], "does not hold weights by name"),
        ],
    )
    def test_a_file_that_does_not_fit_is_refused(self, tmp_path: Path, values: object, words: str) -> None:
        torch.save(values, tmp_path / "x.pth")
        with pytest.raises(Refused, match=words):
            pretrained.tensors(ROW, SHAPES, tmp_path / "x.pth", "A test")

    def test_nothing_but_tensors_is_unpickled(self, tmp_path: Path) -> None:
        class Harmful:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

        torch.save({"features.0.weight": Harmful()}, tmp_path / "x.pth")
        with pytest.raises(Refused, match="more than weights"):
            pretrained.tensors(ROW, SHAPES, tmp_path / "x.pth", "A test")
        assert not (tmp_path / "touched").exists()

    def test_a_file_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        for path in (tmp_path / "x.pth", tmp_path / "x.safetensors", tmp_path):
            with pytest.raises(Refused, match="cannot be read"):
                pretrained.tensors(ROW, SHAPES, path, "A test")
