"""Pairs, diversity and path length: against scikit-image, piq, torch-fidelity and closed forms; and known answers."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from conftest import REAL
from tasvir.config import Refused
from tasvir.core import Noise
from tasvir.metrics import diversity, paths, perceptual, similarity
from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value


def drawn(number: int, height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth pictures with edges and a little grain, uint8 [N,H,W,C]."""
    generator = np.random.default_rng(seed)
    field = generator.normal(size=(number, height, width, channels))
    coarse = gaussian_filter(field, (0, 6, 6, 0), mode="wrap") * 20
    images = 0.5 + 0.25 * np.tanh(4 * coarse) + 0.2 * coarse + 0.02 * field
    return (images.clip(0, 1) * 255).round().astype(np.uint8)


def real_pictures() -> np.ndarray:
    """A crop of 192 px from each picture of Set5."""
    archive = REAL / "set5.zip"
    if not archive.exists():
        pytest.skip(f"{archive} is not here")
    from PIL import Image

    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.endswith(".png"))
        images = [np.asarray(Image.open(io.BytesIO(opened.read(name))).convert("RGB")) for name in names]
    return np.stack([image[20:212, 20:212] for image in images])


def noisy(images: np.ndarray, strength: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=images.shape) * strength
    return (images + noise).clip(0, 255).round().astype(np.uint8)


def blurred(images: np.ndarray, strength: float) -> np.ndarray:
    return gaussian_filter(images.astype(float), (0, strength, strength, 0)).round().astype(np.uint8)


def of(**parts: Any) -> Subject:
    return SimpleNamespace(**{"prefix": "", "border": 0, "seed": 0, "device": "cpu", **parts})  # type: ignore[return-value]


def by_name(values: list[Value]) -> dict[str, Value]:
    return {value.metric: value for value in values}


def squared(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() - other.double()).square().flatten(1).mean(1)


class TestAgainstLibraries:
    @pytest.mark.parametrize(("height", "width", "channels"), [(40, 57, 3), (28, 28, 1), (11, 11, 3)])
    def test_ssim_and_psnr_are_those_of_scikit_image(self, height: int, width: int, channels: int) -> None:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity

        real = drawn(3, height, width, channels)
        made = noisy(real, 25)
        found = similarity.of_pairs([(made, real)], {"ssim": similarity.ssim, "psnr": similarity.psnr})
        wanted = [
            structural_similarity(
                a,
                b,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=255,
                channel_axis=2,
            )
            for a, b in zip(made, real, strict=True)
        ]
        np.testing.assert_allclose(found["ssim"], wanted, atol=1e-10)
        wanted = [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(made, real, strict=True)]
        np.testing.assert_allclose(found["psnr"], wanted, rtol=1e-10)

    @pytest.mark.parametrize("size", [176, 192])
    def test_ms_ssim_is_that_of_piq(self, size: int) -> None:
        import piq

        real = drawn(1, size, size, 2).repeat(4, 0)
        made = real.copy()
        made[0], made[1], made[2], made[3] = (
            noisy(real[0], 40),
            blurred(real[:1], 2)[0],
            real[0, :, ::-1],
            255 - real[0],
        )
        one, other = similarity.unit(made), similarity.unit(real)
        found = similarity.ms_ssim(one, other).numpy()
        np.testing.assert_allclose(found, piq.multi_scale_ssim(one, other, reduction="none").numpy(), atol=1e-4)
        # the published exponents sum to 1.0001, which piq corrects where they are given
        exponents = torch.tensor(similarity.SCALES, dtype=torch.float64)
        wanted = piq.multi_scale_ssim(one, other, scale_weights=exponents, reduction="none")
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-8)

    def test_ms_ssim_of_three_scales_is_piqs_with_those_weights(self) -> None:
        import piq

        real = drawn(3, 64, 64)
        one, other = similarity.unit(noisy(real, 30)), similarity.unit(real)
        assert similarity.scales(64) == 3
        weights = torch.tensor([0.0448, 0.2856, 0.3001], dtype=torch.float64)
        wanted = piq.multi_scale_ssim(one, other, scale_weights=weights, reduction="none")
        np.testing.assert_allclose(similarity.ms_ssim(one, other).numpy(), wanted.numpy(), atol=1e-6)

    def test_an_odd_row_is_repeated_before_ms_ssim_halves(self) -> None:
        from skimage.metrics import structural_similarity

        real = drawn(1, 21, 24, 1) / 255.0
        made = noisy(drawn(1, 21, 24, 1), 30) / 255.0

        def mean(image: np.ndarray) -> np.ndarray:
            return gaussian_filter(image, 1.5, truncate=3.5)[5:-5, 5:-5]

        x, y = made[0, ..., 0], real[0, ..., 0]
        covariance = mean(x * y) - mean(x) * mean(y)
        variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
        contrast = ((2 * covariance + 9e-4) / (variances + 9e-4)).mean()
        halves = [np.pad(image, ((0, 1), (0, 0)), "edge").reshape(11, 2, 12, 2).mean((1, 3)) for image in (x, y)]
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
        half = structural_similarity(*halves, **settings)
        wanted = contrast ** (0.0448 / 0.3304) * half ** (0.2856 / 0.3304)
        one, other = (torch.from_numpy(images).permute(0, 3, 1, 2) for images in (made, real))
        assert float(similarity.ms_ssim(one, other)) == pytest.approx(wanted, abs=1e-10)

    def test_luma_is_that_of_scikit_image(self) -> None:
        from skimage.color import rgb2ycbcr

        images = drawn(2, 12, 17)
        found = similarity.luma(similarity.unit(images))
        np.testing.assert_allclose(found[:, 0].numpy(), rgb2ycbcr(images)[..., 0], atol=1e-3)
        black_and_white = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
        assert similarity.luma(black_and_white).flatten().tolist() == pytest.approx([16, 235], abs=1e-4)


class TestKnownAnswers:
    def test_errors_by_hand(self) -> None:
        real = np.full((2, 8, 8, 1), 100, np.uint8)
        made = real.copy()
        made[1, :4] += 51  # half of the pixels, by a fifth
        found = similarity.of_pairs(
            [(made, real)], {"mse": similarity.squared_error, "mae": similarity.absolute_error, "psnr": similarity.psnr}
        )
        np.testing.assert_allclose(found["mse"], [0, 0.02])
        np.testing.assert_allclose(found["mae"], [0, 0.1])
        np.testing.assert_allclose(found["psnr"], [100, 10 * np.log10(50)])

    @pytest.mark.parametrize("size", [1, 2, 8, 28, 65])
    def test_a_picture_is_wholly_like_itself_at_any_size(self, size: int) -> None:
        images = similarity.unit(drawn(2, size, size))
        for measure in (similarity.ssim, similarity.ms_ssim):
            np.testing.assert_allclose(measure(images, images).numpy(), 1, atol=1e-12)

    def test_ssim_of_flat_pictures_is_their_luminance_alone(self) -> None:
        one, other = (torch.full((1, 1, 28, 28), grey).double() for grey in (0.2, 0.6))
        wanted = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)  # equation 6 of the paper
        assert float(similarity.ssim(one, other)) == pytest.approx(wanted)
        assert float(similarity.ms_ssim(one, other)) == pytest.approx(wanted ** (0.2856 / (0.0448 + 0.2856)))

    def test_windows_and_scales(self) -> None:
        assert [similarity.window(side) for side in (1, 2, 8, 10, 11, 28)] == [1, 1, 7, 9, 11, 11]
        scales = {8: 1, 11: 1, 20: 1, 21: 2, 28: 2, 64: 3, 160: 4, 161: 5, 1024: 5}
        assert {side: similarity.scales(side) for side in scales} == scales

    @pytest.mark.parametrize("pictures", [lambda: drawn(3, 192, 192), real_pictures], ids=["drawn", "set5"])
    def test_noise_and_blur_of_rising_strength_are_ordered(self, pictures: Callable[[], np.ndarray]) -> None:
        real = pictures()
        for harm in (noisy, blurred):
            subjects = [of(pairs=[(harm(real, strength), real)]) for strength in (1, 2, 4, 8)]
            rows = [by_name(similarity.pixel_errors(one) + similarity.structure(one)) for one in subjects]
            for name, rising in {"mse": True, "mae": True, "psnr": False, "ssim": False, "ms_ssim": False}.items():
                values = [row[name].value for row in rows]
                assert values == sorted(values, reverse=not rising), (harm.__name__, name, values)
                assert len(set(values)) == 4

    def test_a_mirrored_picture_is_unlike_itself(self) -> None:
        real = real_pictures()
        found = by_name(similarity.structure(of(pairs=[(real[:, :, ::-1], real)])))
        assert found["ssim"].value < 0.5
        assert found["ms_ssim"].value < 0.5


class TestMeasuringPairs:
    def test_pairs_of_several_sizes_are_averaged_as_pictures(self) -> None:
        small, large = drawn(1, 32, 40), drawn(3, 176, 180)
        pairs = [(noisy(small, 30), small), (noisy(large, 5), large)]
        found = by_name(similarity.pixel_errors(of(pairs=pairs, prefix="reconstruction_")))
        each = [np.square(made / 255.0 - real / 255.0).mean((1, 2, 3)) for made, real in pairs]
        wanted = np.concatenate(each)
        assert list(found) == ["reconstruction_mse", "reconstruction_mae", "reconstruction_psnr"]
        assert found["reconstruction_mse"].value == pytest.approx(wanted.mean())
        assert found["reconstruction_psnr"].value == pytest.approx((-10 * np.log10(wanted)).mean())
        assert found["reconstruction_mse"].number == 4
        low, high = found["reconstruction_mse"].interval or (0, 0)
        assert low < wanted.mean() < high
        passports = {name: value.passport for name, value in by_name(similarity.structure(of(pairs=pairs))).items()}
        assert passports == {"ssim": {"window": 11}, "ms_ssim": {"window": 11, "scales": "2 to 5"}}

    def test_many_pictures_are_compared_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = drawn(7, 16, 16)
        pairs = [(noisy(real, 20), real)]
        whole = similarity.of_pairs(pairs, {"ssim": similarity.ssim})["ssim"]
        monkeypatch.setattr(similarity, "CHUNK", 3 * real[0].size)
        np.testing.assert_allclose(similarity.of_pairs(pairs, {"ssim": similarity.ssim})["ssim"], whole, rtol=1e-12)

    def test_identical_pictures_are_told(self) -> None:
        real = drawn(3, 16, 16)
        made = real.copy()
        made[0] = 255 - made[0]
        note = by_name(similarity.pixel_errors(of(pairs=[(made, real)])))["psnr"].note
        assert note is not None
        assert note.startswith("2 of 3 pictures")
        assert by_name(similarity.pixel_errors(of(pairs=[(made[:1], real[:1])])))["psnr"].note is None

    def test_super_resolution_on_luma_and_on_color_without_the_border(self) -> None:
        from skimage.color import rgb2ycbcr
        from skimage.metrics import structural_similarity

        real = drawn(2, 40, 32)
        made = noisy(real, 10)
        made[:, :3] = made[:, -3:] = made[:, :, :3] = made[:, :, -3:] = 0  # a broken border, which must not count
        found = by_name(similarity.super_resolution(of(pairs=[(made, real)], border=3)))
        inner = [images[:, 3:-3, 3:-3] for images in (made, real)]
        a, b = (rgb2ycbcr(images)[..., 0] for images in inner)
        psnr = [10 * np.log10(255**2 / np.square(x - y).mean()) for x, y in zip(a, b, strict=True)]
        assert found["psnr_y"].value == pytest.approx(np.mean(psnr), abs=1e-4)
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        ssim = [structural_similarity(x, y, **settings) for x, y in zip(a, b, strict=True)]
        assert found["ssim_y"].value == pytest.approx(np.mean(ssim), abs=1e-5)
        rgb = [10 * np.log10(255**2 / np.square(x / 1.0 - y).mean()) for x, y in zip(*inner, strict=True)]
        assert found["psnr_rgb"].value == pytest.approx(np.mean(rgb))
        ssim = [structural_similarity(x, y, channel_axis=2, **settings) for x, y in zip(*inner, strict=True)]
        assert found["ssim_rgb"].value == pytest.approx(np.mean(ssim), abs=1e-10)
        assert found["psnr_y"].passport["channel"] == "Y of BT.601, 16 to 235"
        assert found["ssim_y"].passport["window"] == 11
        assert found["psnr_rgb"].passport == {"border": 3, "channel": "RGB", "average": "of each picture's dB"}

    def test_super_resolution_of_grey_pictures_is_that_of_the_same_in_color(self) -> None:
        real = drawn(2, 24, 24, 1)
        made = noisy(real, 10)
        grey = by_name(similarity.super_resolution(of(pairs=[(made, real)])))
        color = by_name(similarity.super_resolution(of(pairs=[(made.repeat(3, 3), real.repeat(3, 3))])))
        assert list(grey) == ["psnr_y", "ssim_y"]
        narrow = by_name(similarity.super_resolution(of(pairs=[(made, real)], border=8)))
        assert narrow["ssim_y"].passport["window"] == 7
        assert grey["psnr_y"].value == pytest.approx(color["psnr_y"].value)

    def test_a_border_that_leaves_nothing_is_refused(self) -> None:
        real = drawn(1, 16, 16)
        with pytest.raises(Refused, match=r"nothing left without a border of 8 px.\n.*at most 7 px"):
            similarity.super_resolution(of(pairs=[(real, real)], border=8))


@pytest.fixture(scope="module")
def squeeze() -> perceptual.Perceptual:
    torch.manual_seed(0)
    return perceptual.lpips("squeeze", pretrained=False)


def signed(images: np.ndarray) -> Tensor:
    return similarity.unit(images).float() * 2 - 1


CUTS = {"alex": ("alexnet", (1, 4, 7, 9, 11)), "squeeze": ("squeezenet1_1", (1, 4, 7, 9, 10, 11, 12))}
"""torchvision's name of a network, and the layers after which the paper looks at it."""


class TestPerceptual:
    @pytest.mark.parametrize("network", ["alex", "squeeze"])
    def test_is_equation_1_of_the_paper(self, network: perceptual.Network) -> None:
        """Unit-length features, their squared difference weighted by the published heads, mean over places, summed."""
        import torchmetrics.functional.image.lpips as package
        import torchvision

        torch.manual_seed(1)
        distance = perceptual.lpips(network, pretrained=False)
        name, cuts = CUTS[network]
        features = getattr(torchvision.models, name)(weights=None).features.eval()
        parts = distance.module.net.state_dict()  # type: ignore[union-attr]
        features.load_state_dict(
            {key.split(".", 2 if "slices" in key else 1)[-1]: value for key, value in parts.items()}
        )
        heads = torch.load(Path(package.__file__).parent / "lpips_models" / f"{network}.pth", map_location="cpu")
        real = drawn(3, 64, 64)
        made = noisy(real, 40)
        normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        one, other = (normalize(similarity.unit(images).float()) for images in (made, real))
        wanted = torch.zeros(3)
        with torch.no_grad():
            for place, layer in enumerate(features):
                one, other = layer(one), layer(other)
                if place in cuts:
                    unit = [values / values.norm(dim=1, keepdim=True).clamp_min(1e-8) for values in (one, other)]
                    weights = heads[f"lin{cuts.index(place)}.model.1.weight"]
                    wanted += ((unit[0] - unit[1]) ** 2 * weights).sum(1).mean((1, 2))
        assert wanted.min() > 0
        torch.testing.assert_close(distance(signed(made), signed(real)), wanted, rtol=1e-4, atol=0)

    def test_is_zero_on_itself_symmetric_and_of_each_picture(self, squeeze: perceptual.Perceptual) -> None:
        real = signed(drawn(3, 40, 40))
        made = signed(noisy(drawn(3, 40, 40), 60))
        assert squeeze(real, real).tolist() == [0, 0, 0]
        torch.testing.assert_close(squeeze(made, real), squeeze(real, made))
        torch.testing.assert_close(squeeze(made, real)[1:2], squeeze(made[1:2], real[1:2]))
        assert squeeze(made[:1], real[:1]).shape == (1,)

    @pytest.mark.parametrize("network", perceptual.NETWORKS)
    def test_smaller_pictures_than_the_network_takes_are_enlarged(self, network: perceptual.Network) -> None:
        least = perceptual.NETWORKS[network][1]
        module = nn.Module()
        seen: list[int] = []
        module.forward = lambda one, other: (seen.append(one.shape[-1]), one.mean((1, 2, 3)))[1]  # type: ignore[method-assign]
        distance = perceptual.Perceptual(network, module, "")
        for side in (least - 1, least):
            distance(torch.zeros(2, 3, side, side), torch.zeros(2, 3, side, side))
        assert seen == [64, least]
        assert distance.facts([least])["lpips_resize"] == "none"
        assert distance.facts([least, 8])["lpips_resize"] == "bilinear to 64 px or none"

    def test_the_smallest_picture_gets_through(self, squeeze: perceptual.Perceptual) -> None:
        least = perceptual.NETWORKS["squeeze"][1]
        assert squeeze(torch.zeros(1, 3, least, least), torch.ones(1, 3, least, least)).isfinite().all()
        with pytest.raises(RuntimeError):
            squeeze.module(torch.zeros(1, 3, least - 1, least - 1), torch.ones(1, 3, least - 1, least - 1))

    def test_measures_grey_and_color_pairs(
        self, squeeze: perceptual.Perceptual, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(perceptual, "lpips", lambda network, device: squeeze)
        for channels in (1, 3):
            real = drawn(3, 24, 24, channels)
            values = [
                perceptual.perceptual(of(pairs=[(noisy(real, strength), real)], prefix="reconstruction_"))[0]
                for strength in (0, 20, 80)
            ]
            assert values[0].value == 0 < values[1].value < values[2].value
            assert values[0].metric == "reconstruction_lpips"
            assert values[0].passport == {"lpips": "squeeze", "lpips_weights": squeeze.hash, "lpips_resize": "none"}

    def test_weights_that_cannot_be_fetched_are_refused_in_two_lines(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(*_: object) -> None:
            raise URLError("no network")

        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
        with pytest.raises(Refused) as refused:
            perceptual.lpips("vgg")
        first, second = str(refused.value).splitlines()
        assert "vgg16-397923af.pth" in first
        assert "no network" in first
        assert "https://download.pytorch.org/models/vgg16-397923af.pth" in second
        assert str(tmp_path / "checkpoints") in second
        assert "begin with 397923af" in second

    def test_weights_are_checked_before_they_are_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision

        from tasvir.nn import pretrained

        weights = torchvision.models.squeezenet1_1(weights=None).state_dict()
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        wanted = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
        wanted.parent.mkdir()
        torch.save(weights, wanted)
        with pytest.raises(Refused, match="is damaged"):  # torchvision itself would load it unseen
            perceptual.lpips("squeeze")
        monkeypatch.setattr(pretrained, "fetch", lambda weights, what: wanted)
        first = perceptual.lpips("squeeze")
        assert first.module.net.slices[0][0].weight.equal(weights["features.0.weight"])  # type: ignore[union-attr,index]
        assert first.hash == perceptual.lpips("squeeze").hash
        weights["features.0.weight"] += 1
        torch.save(weights, wanted)
        assert first.hash != perceptual.lpips("squeeze").hash


class TestDiversity:
    def test_pairs_are_different_pictures_of_one_class_and_never_twice(self) -> None:
        labels = np.random.default_rng(0).integers(0, 5, 400)
        labels[:2] = (7, 8)  # classes of one picture give no pair
        pairs = diversity.random_pairs(labels, 100, 3)
        assert (labels[pairs[:, 0]] == labels[pairs[:, 1]]).all()
        assert np.bincount(labels[pairs[:, 0]]).tolist() == [20] * 5
        assert len({frozenset(pair) for pair in pairs.tolist()}) == 100
        np.testing.assert_array_equal(pairs, diversity.random_pairs(labels, 100, 3))
        assert not np.array_equal(pairs, diversity.random_pairs(labels, 100, 4))

    def test_a_small_class_gives_every_pair_it_has(self) -> None:
        pairs = diversity.random_pairs(np.array([0, 1, 0, 0, 1, 0]), 1000, 0)
        found = {tuple(sorted(pair)) for pair in pairs.tolist()}
        assert found == {(0, 2), (0, 3), (0, 5), (2, 3), (2, 5), (3, 5), (1, 4)}
        assert len(pairs) == 7
        assert diversity.random_pairs(np.arange(5), 10, 0).shape == (0, 2)

    def test_all_pairs_are_equally_likely(self) -> None:
        counts = np.zeros((6, 6))
        for seed in range(2000):
            for one, other in diversity.random_pairs(np.zeros(6, int), 1, seed):
                counts[max(one, other), min(one, other)] += 1
        expected = 2000 / 15
        chi_squared = ((counts[np.tril_indices(6, -1)] - expected) ** 2 / expected).sum()
        assert chi_squared < 36.1  # 14 degrees of freedom, p = 0.001

    def test_more_classes_than_pairs_give_one_each(self) -> None:
        labels = np.repeat(np.arange(50), 2)
        pairs = diversity.random_pairs(labels, 20, 0)
        assert len(np.unique(labels[pairs[:, 0]])) == len(pairs) == 20

    @pytest.mark.parametrize("number", [2, 3, 60_000])
    def test_numbers_of_pairs_at_the_edges(self, number: int) -> None:
        last = number * (number - 1) // 2 - 1
        assert diversity._pair(np.array([0, last])).tolist() == [[1, 0], [number - 1, number - 2]]

    def test_likeness_is_the_mean_over_pairs_by_hand(self) -> None:
        images = drawn(4, 24, 24)
        subject = of(
            samples=images, reference=images, sample_labels=None, reference_labels=None, classes=(), extractor=None
        )
        (value,) = diversity.ms_ssim_diversity(subject)
        tensors = similarity.unit(images)
        each = [float(similarity.ms_ssim(tensors[i : i + 1], tensors[j : j + 1])) for i in range(4) for j in range(i)]
        assert value.value == pytest.approx(np.mean(each))
        assert value.real == value.value
        assert value.number == 4
        assert value.passport == {"labels": "none", "pairs": 6, "scales": 2, "window": 11}
        assert value.note is None

    def collapsed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples of three classes, the second always the same but for a little noise; real pictures; labels."""
        labels = np.tile(np.arange(3), 40)
        samples, reference = drawn(120, 24, 24, seed=1), drawn(120, 24, 24, seed=2)
        samples[labels == 1] = noisy(np.repeat(samples[1:2], 40, 0), 3)
        return samples, reference, labels

    def test_a_collapsed_class_shows_and_is_named(self) -> None:
        samples, reference, labels = self.collapsed()
        asked = dict(sample_labels=labels, reference_labels=labels, classes=("red", "green", "blue"), extractor=None)
        (value,) = diversity.ms_ssim_diversity(of(samples=samples, reference=reference, **asked))
        assert value.real is not None
        assert value.value > value.real + 0.2
        assert value.note is not None
        assert value.note.startswith("Samples are much more alike than real pictures in green (")
        assert "red" not in value.note
        assert value.passport["labels"] == "asked for"
        (healthy,) = diversity.ms_ssim_diversity(
            of(samples=reference, reference=samples[labels != 1], **asked | {"reference_labels": labels[labels != 1]})
        )
        assert healthy.note is None

    def test_the_classifier_gives_labels_where_nobody_asked(self) -> None:
        samples, reference, labels = self.collapsed()
        logits = np.eye(3, dtype=np.float32)[labels]
        only_two = logits.copy()
        only_two[:, 2] = 0
        only_two[labels == 2, 0] = 1
        subject = of(
            samples=samples,
            reference=reference,
            sample_labels=None,
            reference_labels=labels,
            classes=("red", "green", "blue"),
            extractor=SimpleNamespace(name="classifier", hash="ab12"),
            sample_features=SimpleNamespace(logits=only_two),
            reference_features=SimpleNamespace(logits=logits),
        )
        (value,) = diversity.ms_ssim_diversity(subject)
        assert value.passport["labels"] == "predicted by the classifier"
        assert value.passport["classifier"] == "ab12", "another classifier may give other labels"
        assert value.note is not None
        assert "green" in value.note
        assert value.note.endswith("There are no two samples of blue.")
        subject.extractor = SimpleNamespace(name="inception")  # type: ignore[misc]
        assert diversity.ms_ssim_diversity(subject)[0].passport["labels"] == "none"

    def test_distance_of_two_samples_over_that_of_two_real_pictures(self) -> None:
        real = drawn(10, 8, 8)
        middle = real.mean(0)
        samples = (middle + (real - middle) / 2).round().astype(np.uint8)
        (value,) = diversity.diversity(of(samples=samples, reference=real))
        assert value.value == pytest.approx(0.5, abs=0.01)
        assert diversity.diversity(of(samples=samples[:1], reference=real)) == []


class TestPathLength:
    def test_a_linear_generator_has_the_length_of_its_steps(self) -> None:
        torch.manual_seed(0)
        matrix = torch.randn(5, 12).double()
        start, end = torch.randn(50, 5), torch.randn(50, 5)
        found = paths.path_length(lambda z: z.double() @ matrix, start, end, squared, "linear", epsilon=1e-2)
        wanted = ((end - start).double() @ matrix).square().mean(1)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3)

    def test_the_sphere_is_walked_at_an_even_rate(self) -> None:
        start, end = torch.eye(4)[[0, 0]], torch.stack([torch.eye(4)[1], -torch.eye(4)[2] + torch.eye(4)[0]])
        found = paths.path_length(lambda z: z, start, end / end.norm(dim=1, keepdim=True), squared, epsilon=1e-2)
        np.testing.assert_allclose(found * 4, [(np.pi / 2) ** 2, (np.pi / 4) ** 2], rtol=1e-3)

    def test_latents_that_point_the_same_way_are_joined_straight(self) -> None:
        start = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
        found = paths.path_length(lambda z: z, start, torch.tensor([[2.0, 4.0], [-1.0, -2.0]]), squared, epsilon=1e-2)
        np.testing.assert_allclose(found, [2.5, 10], rtol=1e-3)

    def test_full_paths_are_sampled_evenly_and_ends_at_their_start(self) -> None:
        start, end = torch.zeros(4000, 1), torch.ones(4000, 1)
        full, ends = (
            paths.path_length(torch.square, start, end, squared, "linear", sampling, 1e-2)
            for sampling in paths.SAMPLINGS
        )
        assert full.mean() == pytest.approx(4 / 3, rel=0.05)  # d(z²)/dt = 2t, and the mean of 4t² is 4/3
        assert ends.max() < 1e-3
        again = paths.path_length(torch.square, start, end, squared, "linear", "full", 1e-2)
        np.testing.assert_array_equal(full, again)
        other = paths.path_length(torch.square, start, end, squared, "linear", "full", 1e-2, seed=1)
        assert not np.array_equal(full, other)

    @pytest.mark.parametrize(("epsilon", "tolerance"), [(1e-2, 1e-5), (1e-4, 1e-2)])
    @pytest.mark.parametrize(("theirs", "ours"), [("lerp", "linear"), ("slerp_any", "spherical")])
    def test_is_that_of_torch_fidelity(
        self, theirs: str, ours: str, epsilon: float, tolerance: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch_fidelity
        from torch_fidelity.registry import SAMPLE_SIMILARITY_REGISTRY, register_sample_similarity
        from torch_fidelity.sample_similarity_base import SampleSimilarityBase

        class Squared(SampleSimilarityBase):
            def __init__(self, name: str, **_: Any) -> None:
                super().__init__(name)

            def forward(self, *images: Tensor) -> Tensor:
                return squared(*images)

        if "squared" not in SAMPLE_SIMILARITY_REGISTRY:
            register_sample_similarity("squared", Squared)
        percentile = np.percentile  # torch-fidelity 0.4 still uses the name that numpy 2.4 has dropped
        monkeypatch.setattr(
            np, "percentile", lambda values, q, interpolation: percentile(values, q, method=interpolation)
        )
        torch.manual_seed(0)
        generator = nn.Sequential(
            nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 108), nn.Tanh(), nn.Unflatten(1, (3, 6, 6))
        )
        wanted = torch_fidelity.calculate_metrics(
            input1=torch_fidelity.GenerativeModelModuleWrapper(generator, 8, "normal", 0),
            input1_model_num_samples=1000,
            ppl=True,
            cuda=False,
            verbose=False,
            ppl_sample_similarity="squared",
            ppl_epsilon=epsilon,
            ppl_z_interp_mode=theirs,
            ppl_reduction="none",
            rng_seed=3,
        )
        state = np.random.RandomState(3)
        start, end = (torch.from_numpy(state.randn(1000, 8)).float() for _ in range(2))
        found = paths.without_outliers(paths.path_length(generator, start, end, squared, ours, "end", epsilon))
        assert len(found) == len(wanted["perceptual_path_length_raw"]) < 1000
        np.testing.assert_allclose(found, wanted["perceptual_path_length_raw"], rtol=100 * tolerance)
        assert found.mean() == pytest.approx(wanted["perceptual_path_length_mean"], rel=tolerance)

    def subject(self, model: object) -> Subject:
        pictures = SimpleNamespace(pictures=SimpleNamespace(size=20, channels=1))
        return of(opened=SimpleNamespace(model=model, device=torch.device("cpu")), dataset=pictures, number=40)

    def test_measures_in_z_and_where_there_is_one_in_w(
        self, squeeze: perceptual.Perceptual, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(paths, "lpips", lambda network, device: squeeze)
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 400), nn.Tanh(), nn.Unflatten(1, (1, 20, 20)))
        plain = SimpleNamespace(latent_size=4, decode=network)
        (value,) = paths.perceptual_path_length(self.subject(plain))
        assert value.metric == "ppl_z"
        assert value.number == 40
        assert value.interval is not None
        assert 0 < value.interval[0] < value.value < value.interval[1]
        assert value.passport["lpips"] == "squeeze"
        assert value.passport["interpolation"] == "spherical"
        assert paths.perceptual_path_length(self.subject(plain)) == [value]
        styled = SimpleNamespace(
            latent_size=4, decode=network, map=lambda z: 2 * z, synthesize=lambda w: network(w / 2)
        )
        one, other = paths.perceptual_path_length(self.subject(styled))
        assert one == value
        assert (other.metric, other.passport["interpolation"]) == ("ppl_w", "linear")
        latents = Noise(range(40))
        start, end = latents.draw(4), latents.draw(4)
        lengths = paths.path_length(network, start, end, lambda a, b: squeeze(*map(perceptual.color, (a, b))), "linear")
        assert other.value == pytest.approx(paths.without_outliers(lengths).mean(), rel=1e-3)
        assert other.value != value.value
        still = SimpleNamespace(latent_size=4, decode=lambda z: torch.zeros(len(z), 1, 20, 20))
        assert paths.perceptual_path_length(self.subject(still))[0].value == 0
