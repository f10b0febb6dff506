"""What VGG-19 sees, and style transfer by it; with random weights."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from tasvir.cli import main
from tasvir.config import Refused, StyleConfig
from tasvir.data.colors import lightness, rgb_to_lab
from tasvir.losses import perceptual
from tasvir.losses.perceptual import VGG, Features, VGGConfig, feature_distance, gram
from tasvir.styling import Styled, blend, chosen, colored, in_grey, stages, stylize, total_variation

SMALL = StyleConfig(
    content_layers=("relu2_1",), style_layers=("relu1_1", "relu2_1"), steps=8, sizes=2, total_variation=0
)


def drawn(seed: int, height: int = 24, width: int = 20) -> Tensor:
    """Blocks of colour, [1,3,H,W] in [-1,1]."""
    torch.manual_seed(seed)
    return (torch.rand(1, 3, height // 4, width // 4) * 2 - 1).repeat_interleave(4, 2).repeat_interleave(4, 3)


def seen(settings: StyleConfig = SMALL) -> Features:
    return Features((layer for layers in chosen(settings, True) for layer in layers), "random", "average")


def styled(content: Tensor, styles: list[Tensor], settings: StyleConfig = SMALL) -> Styled:
    return stylize(content, styles, settings, seen(settings))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """torchvision's own network without its classifier, randomly weighted, and the file of its weights."""
    from torchvision.models import vgg

    torch.manual_seed(0)
    network, file = vgg.make_layers(vgg.cfgs["E"]).eval(), tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, file)
    return network, file


class TestFeatures:
    @pytest.mark.parametrize("pool", ["max", "average"])
    def test_are_those_of_torchvision(self, theirs: tuple[nn.Module, Path], pool: perceptual.Pooling) -> None:
        published, file = theirs
        layers = {"conv1_1": 1, "vgg22": 9, "pool2": 10, "relu3_4": 18, "conv5_4": 35, "vgg54": 36}
        ours = Features(layers, file, pool)
        assert "is not the published file" in ours.note
        image = torch.rand(1, 3, 32, 39)
        values = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(image)
        found = ours(image * 2 - 1)
        assert list(found) == list(layers)
        for place, layer in enumerate(published, 1):
            if isinstance(layer, nn.MaxPool2d) and pool == "average":
                layer = nn.AvgPool2d(2)
            values = layer(values.clone())
            for name in (name for name, cut in layers.items() if cut == place):
                torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)

    def test_gradients_reach_pictures_alone_and_grey_is_repeated(self) -> None:
        features, image = Features(("conv2_1", "relu2_1"), "random"), torch.rand(1, 1, 8, 8, requires_grad=True)
        feature_distance(features, image, torch.zeros(1, 1, 8, 8), ("relu2_1",)).backward()
        assert image.grad is not None
        assert image.grad.abs().sum() > 0
        assert not any(values.requires_grad for values in features.parameters())
        wanted = features(image.expand(-1, 3, -1, -1))
        torch.testing.assert_close(features(image), wanted)
        assert float(wanted["conv2_1"].detach().min()) < 0 <= float(wanted["relu2_1"].detach().min())

    def test_distance_is_the_mean_square_summed_over_layers(self) -> None:
        features, (made, real) = Features(("relu1_1", "relu2_1"), "random"), (drawn(1), drawn(2))
        one, other = features(made), features(real)
        wanted = sum(float((one[name] - other[name]).double().square().mean()) for name in one)
        assert float(feature_distance(features, made, real)) == pytest.approx(wanted, rel=1e-5)
        assert feature_distance(features, real, real) == 0

    def test_small_pictures_and_unknown_layers_are_refused(self) -> None:
        features = Features(("relu3_1",), "random")
        assert features(torch.zeros(1, 3, 4, 9))["relu3_1"].shape == (1, 256, 1, 2)
        with pytest.raises(Refused, match="relu3_1 of VGG-19 sees pictures from 4 px, not 9×3"):
            features(torch.zeros(1, 3, 3, 9))
        for name in ("relu2_3", "vgg25", "fc7"):
            with pytest.raises(Refused, match=f"no layer '{name}'; there are conv and relu 1_1 to 1_2, 2_1 to 2_2"):
                Features((name,), "random")

    def test_normalized_channels_are_one_on_the_mean_and_otherwise_what_they_were(
        self, theirs: tuple[nn.Module, Path]
    ) -> None:
        plain, scaled = (Features(("relu1_2", "relu3_1"), theirs[1], "average") for _ in range(2))
        images = [drawn(1), drawn(2, 16, 32)]
        scaled.normalize(images)
        for name, values in scaled(images[0]).items():
            both = torch.stack([scaled(image)[name].mean((0, 2, 3)) for image in images]).mean(0)
            assert (both <= 1.0001).all()
            assert ((both - 1).abs() < 1e-4).float().mean() > 0.5  # the others are rare
            before = plain(images[0])[name]
            ratio = values.sum((0, 2, 3)) / before.sum((0, 2, 3)).clamp(min=1e-9)
            torch.testing.assert_close(values, before * ratio[:, None, None], rtol=1e-3, atol=1e-3)

    def test_normalized_random_channels_are_active_half_of_the_time_and_differ_in_every_layer(self) -> None:
        features, images = Features(("relu1_1", "relu3_1", "relu5_1"), "random", "average"), [drawn(1, 64, 64)] * 2
        features.normalize(images)
        for values in features(images[0]).values():
            assert (values.mean((0, 2, 3)) - 1).abs().max() < 1e-3
            assert 0.35 < (values > 0).float().mean() < 0.65
            assert 0.7 < values.std((0, 2, 3)).median() < 1.8


class TestHeld:
    def test_is_read_when_first_used_and_shared_by_copies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(*_: object) -> Path:
            raise Refused("not here")

        monkeypatch.setattr(perceptual.pretrained, "fetch", absent)
        missing = VGG(VGGConfig(), ("vgg54",), "A test")
        with pytest.raises(Refused, match="not here"):
            missing(torch.zeros(1, 3, 32, 32))

        class Holder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.vgg = VGG(VGGConfig("random"), ("vgg22",), "A test")

        holder, state = Holder(), torch.get_rng_state()
        with torch.inference_mode():
            first = holder.vgg(torch.zeros(1, 3, 8, 8))["vgg22"]
        assert torch.get_rng_state().equal(state)
        assert not holder.state_dict()
        assert deepcopy(holder).vgg is holder.vgg
        image = torch.zeros(1, 3, 8, 8, requires_grad=True)
        again = Holder().vgg(image)["vgg22"]
        again.sum().backward()
        assert first.equal(again)  # random weights are the same everywhere


class TestGram:
    def test_is_the_mean_product_of_two_channels(self) -> None:
        values = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 1], [0, -1]]]])
        assert gram(values).tolist() == [[[30 / 4, -2 / 4], [-2 / 4, 2 / 4]]]
        assert gram(values.half()).dtype == torch.float32

    def test_does_not_know_where_things_are(self) -> None:
        values = torch.randn(2, 5, 6, 7)
        torch.testing.assert_close(gram(values), gram(values.flatten(2)[:, :, torch.randperm(42)].view(2, 5, 7, 6)))
        torch.testing.assert_close(gram(values), gram(values.repeat(1, 1, 2, 3)))


class TestStylize:
    def test_of_a_picture_with_itself_is_zero(self) -> None:
        found = styled(drawn(1), [drawn(1)])
        assert found.losses["content"] + found.losses["style"] < 1e-9
        torch.testing.assert_close(found.image, drawn(1), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
    @pytest.mark.parametrize("start", ["content", "noise", "style"])
    def test_losses_fall_from_any_start(self, optimizer: str, start: str) -> None:
        settings = replace(SMALL, optimizer=optimizer, start=start, learning_rate=0.05)
        found, again = (styled(drawn(1), [drawn(2, 16, 28)], settings) for _ in range(2))
        assert sum(found.losses.values()) < 0.8 * sum(found.before.values())
        assert found.image.shape == (1, 3, 24, 20)
        assert found.image.abs().max() <= 1
        assert found.image.equal(again.image)
        assert found.steps == 8

    def test_styles_are_blended_by_weight(self) -> None:
        first, second = drawn(2), drawn(3)
        alone = styled(drawn(1), [first], replace(SMALL, start="content"))
        settings = replace(SMALL, style_weights=(3.0, 0.0))
        features = seen().normalize([drawn(1), first])
        assert blend((3.0, 1.0), 2) == [0.75, 0.25]
        assert blend((), 2) == [0.5, 0.5]
        near = styled(drawn(1), [first, second], settings)
        grams = [gram(features(image)["relu2_1"]) for image in (alone.image, near.image, first, second)]
        for made in grams[:2]:
            assert (made - grams[2]).norm() < (made - grams[3]).norm()
        with pytest.raises(Refused, match="are 1 for 2 styles"):
            styled(drawn(1), [first, second], replace(SMALL, style_weights=(1.0,)))
        with pytest.raises(Refused, match="all 0"):
            blend((0.0, 0.0), 2)

    def test_colors_are_kept_where_srgb_has_them(self) -> None:
        content = drawn(1) * 0.3
        found = styled(content, [drawn(2)], replace(SMALL, keep_colors=True))
        grey = torch.full((1, 1, 24, 20), 0.1)
        torch.testing.assert_close(
            rgb_to_lab(colored(grey, content))[:, 1:], rgb_to_lab(content)[:, 1:], atol=0.02, rtol=0
        )
        inside = (found.image.abs() < 0.999).all(1)
        assert inside.float().mean() > 0.5
        off = (rgb_to_lab(found.image) - rgb_to_lab(content))[:, 1:].abs().amax(1)
        assert off[inside].max() < 0.05
        assert (lightness(found.image) - lightness(content)).abs().mean() > 0.2
        torch.testing.assert_close(
            lightness(in_grey(content).expand(-1, 3, -1, -1)), lightness(content), atol=0.01, rtol=0
        )

    def test_the_lightness_of_a_style_is_matched_to_the_contents(self) -> None:
        style, content = drawn(2), drawn(1) * 0.4
        light, wanted = (lightness(image) for image in (in_grey(style, content).expand(-1, 3, -1, -1), content))
        assert float(light.mean()) == pytest.approx(float(wanted.mean()), abs=0.05)
        assert float(light.std()) == pytest.approx(float(wanted.std()), rel=0.01)
        given = torch.stack([light, lightness(style)]).flatten(1)
        assert torch.corrcoef(given)[0, 1] > 0.999
        flat = in_grey(torch.full((1, 3, 4, 4), 0.9), content)
        assert float(lightness(flat.expand(-1, 3, -1, -1)).mean()) == pytest.approx(float(wanted.mean()), abs=0.5)

    @pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
    @pytest.mark.parametrize("kept", [False, True])
    def test_losses_told_are_those_of_the_image_and_every_picture_is_in_range(self, kept: bool, optimizer: str) -> None:
        settings = replace(SMALL, keep_colors=kept, optimizer=optimizer, style_weight=1e4, learning_rate=0.5)
        content, style = drawn(1).sign(), drawn(2).sign()
        ways: list[Tensor] = []
        features, shares = seen(settings), []

        def watch(_: int, share: float, __: object, picture: Callable[[], Tensor]) -> None:
            ways.append(picture())
            shares.append(share)

        found = stylize(content, [style], settings, features, watch)
        assert torch.stack([found.image, *ways]).abs().max() <= 1
        assert shares == pytest.approx([n / 20 for n in (1, 2, 3, 4, 8, 12, 16, 20)])  # the first four at half the size
        image, *pictures = (
            [in_grey(found.image), in_grey(content), in_grey(style, content)] if kept else [found.image, content, style]
        )
        again = seen(settings).normalize(pictures)
        made, first, wanted = (again(picture) for picture in (image, *pictures))
        grams = [(gram(made[name]) - gram(wanted[name])).square().mean() / 4 for name in chosen(settings, True)[1]]
        assert found.losses["style"] == pytest.approx(1e4 * float(torch.stack(grams).mean()), rel=1e-3)
        assert found.losses["content"] == pytest.approx(
            float((made["relu2_1"] - first["relu2_1"]).square().mean()), rel=1e-3
        )

    def test_sizes_grow_to_the_full_one(self) -> None:
        assert stages(200, 16, StyleConfig(steps=10, sizes=3)) == [(4, 3), (2, 3), (1, 4)]
        assert stages(40, 16, StyleConfig(steps=10, sizes=3)) == [(2, 5), (1, 5)]
        assert stages(16, 16, StyleConfig(steps=10, sizes=3)) == [(1, 10)]
        assert stages(99, 16, StyleConfig(steps=1)) == [(1, 1)]

    def test_total_variation_smooths(self) -> None:
        rough, smooth = (styled(drawn(1), [drawn(2)], replace(SMALL, total_variation=by)).image for by in (0.0, 300.0))
        assert total_variation(smooth) < 0.8 * total_variation(rough)
        assert total_variation(torch.tensor([[[[0.0, 2.0], [0.0, 2.0]]]])) == 4

    def test_an_interruption_keeps_what_there_is(self) -> None:
        def interrupt(step: int, *_: object) -> None:
            if step == 3:
                raise KeyboardInterrupt

        found = stylize(drawn(1), [drawn(2)], SMALL, seen(), interrupt)
        assert found.interrupted
        assert found.steps == 3
        assert sum(found.losses.values()) < sum(found.before.values())


class TestCommand:
    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        """A content with transparency that EXIF turns, 40×24 upright, and a grey style of another shape."""
        pixels = np.random.default_rng(0).integers(0, 255, (40, 24, 4), np.uint8)
        pixels[..., 3] = np.arange(40)[:, None] * 6
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.fromarray(pixels).save(tmp_path / "content.png", exif=turned)
        Image.fromarray(pixels[:30, :, 0]).save(tmp_path / "style.jpg")
        return tmp_path / "content.png", tmp_path / "style.jpg"

    WORDS = (
        "--weights",
        "random",
        "--steps",
        "3",
        "--content-layers",
        "relu2_1",
        "--style-layers",
        "relu1_1",
        "relu2_1",
    )

    def run(self, *words: object) -> None:
        with pytest.raises(SystemExit) as left:
            main(["style", *map(str, words), *self.WORDS])
        assert left.value.code == 0

    def test_from_end_to_end(
        self, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content, style = files
        frames = tmp_path / "frames"
        out = tmp_path / "new" / "out.png"
        words = ("--progress", frames, "--every", 2, "--json", "--size", 32, "--style-weights", 1, 2)
        self.run(content, style, content, "--out", out, *words)
        said = capsys.readouterr()
        told = json.loads(said.out[: said.out.rindex("}") + 1])
        assert (told["width"], told["height"], told["steps"]) == (32, 19, 3)
        assert sum(told["losses"].values()) < sum(told["before"].values())
        assert "random" in said.err
        assert "step 3/3  0:00 left  content" in said.err
        made = Image.open(out)
        assert (made.mode, made.size) == ("RGBA", (32, 19))
        opacity = np.asarray(made)[..., 3].astype(int)
        assert opacity[5, 0] > 200 > 50 > opacity[5, -1]  # turned with the picture
        assert len(list(frames.glob("*.png"))) == 3
        self.run(content, style, "--out", tmp_path / "out.jpg", "--keep-colors", "--start", "noise")
        assert Image.open(tmp_path / "out.jpg").size == (40, 24)

    @pytest.mark.parametrize(
        ("words", "answer"),
        [
            (("--out", "x.tif"), "end it in .png, .jpg"),
            (("--out", "x.png", "--weights", "absent.pth"), "absent.pth cannot be read"),
            (("--out", "x.png", "--size", "4"), "relu3_1 of VGG-19 sees pictures from 4 px, not 4×2"),
            (("--out", "x.png", "--style-layers", "conv9"), "no layer 'conv9'"),
            (("absent.png", "--out", "x.png"), "absent.png cannot be read: No such file"),
        ],
    )
    def test_what_cannot_be_done_is_refused(
        self,
        files: tuple[Path, Path],
        words: tuple[str, ...],
        answer: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        given = words if "--weights" in words else (*words, "--weights", "random")
        with pytest.raises(SystemExit) as left:
            main(["style", str(files[0]), str(files[1]), *given])
        assert left.value.code == 2
        assert answer in capsys.readouterr().err
        assert not Path("x.png").exists()
