"""Networks of other libraries as extractors: DINOv2 (Oquab et al. 2023, arXiv 2304.07193), CLIP (Radford et al. 2021,
arXiv 2103.00020), and any classification network of timm and torchvision by its name there."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasvir.config import Refused, nearest
from tasvir.metrics.features.extraction import Extractor, exact
from tasvir.training.precision import choose_device

BATCH = 32


@dataclass(frozen=True)
class Preparation:
    """How a network wants its pictures, as its library says; the whole picture is used, nothing is cut off."""

    side: int
    interpolation: str
    """bilinear or bicubic, with antialiasing."""
    mean: tuple[float, ...]
    """[3], of pictures in [0,1]."""
    deviation: tuple[float, ...]
    """[3]"""

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [N,3,H,W] to float32 [N,3,side,side], normalized."""
        mean, deviation = (
            images.new_tensor(x, dtype=torch.float32)[:, None, None] for x in (self.mean, self.deviation)
        )
        resized = F.interpolate(images.float() / 255, (self.side, self.side), mode=self.interpolation, antialias=True)
        return (resized - mean) / deviation


def dinov2() -> Extractor:
    """ViT-L/14 at 224 px, the class token: what Stein et al. (2023, arXiv 2306.04675) found closest to people."""
    return _extractor("dinov2", *timm_network("vit_large_patch14_dinov2.lvd142m", img_size=224))


def clip() -> Extractor:
    """OpenAI's ViT-B/32, its 512 values shared with text (Kynkäänniemi et al. 2023, arXiv 2203.06026, section 4)."""
    return _extractor("clip", *timm_network("vit_base_patch32_clip_quickgelu_224.openai", num_classes=512))


def of_timm(name: str) -> Extractor:
    """The pooled features of any network of timm. Raises `Refused` where it or its weights cannot be had."""
    return _extractor(f"timm:{name}", *timm_network(name))


def of_torchvision(name: str) -> Extractor:
    """What the last layer of any classification network of torchvision is given. Raises `Refused` as `of_timm`."""
    return _extractor(f"torchvision:{name}", *torchvision_network(name))


LIBRARIES: dict[str, Callable[[str], Extractor]] = {"timm": of_timm, "torchvision": of_torchvision}
"""Library → function from the name of one of its networks."""


def timm_network(
    name: str, pretrained: bool = True, num_classes: int = 0, **options: Any
) -> tuple[nn.Module, Preparation]:
    """A network of timm and what it wants; `pretrained=False` for random weights. Raises `Refused`."""
    try:
        import timm
        from timm.data.config import resolve_data_config
    except ImportError:
        raise Refused(
            f"The features {name} need the library timm, which is not installed.\n"
            "Install it with: pip install 'tasvir[networks]'."
        ) from None
    plain = name.split(".")[0]
    if not timm.is_model(plain):
        raise Refused(f"timm has no network {name!r}.{nearest(plain, timm.list_models())}")
    network = _fetched(
        f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **options)
    )
    wanted = resolve_data_config({}, model=network)
    interpolation = "bilinear" if wanted["interpolation"] == "bilinear" else "bicubic"
    side = options.get("img_size", wanted["input_size"][-1])
    return network, Preparation(side, interpolation, tuple(wanted["mean"]), tuple(wanted["std"]))


def torchvision_network(name: str, pretrained: bool = True) -> tuple[nn.Module, Preparation]:
    """A classification network of torchvision without its last linear layer, and what it wants; see `timm_network`."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise Refused(f"torchvision has no classification network {name!r}.{nearest(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    network = _fetched(f"torchvision:{name}", lambda: models.get_model(name, weights=weights if pretrained else None))
    layers = [place for place, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not layers:
        raise Refused(f"torchvision's {name} does not end in a linear layer; choose another, such as resnet50.")
    network.set_submodule(layers[-1], nn.Identity())
    wanted = weights.transforms()
    return network, Preparation(wanted.crop_size[0], wanted.interpolation.value, tuple(wanted.mean), tuple(wanted.std))


def _fetched(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` returns; raises `Refused` where its library cannot have the weights."""
    try:
        return make()
    except Exception as error:  # each library says in several ways of its own that there is no network
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise Refused(
            f"{name} could not be had ({reason}).\n"
            "Its library fetches weights once, into TORCH_HOME or HF_HOME: let it do so where there is a network, or "
            "say --features pixels, which needs none."
        ) from None


def _extractor(name: str, network: nn.Module, prepare: Preparation) -> Extractor:
    device = choose_device("auto")
    network = network.eval().requires_grad_(False).to(device)

    def features(images: Tensor) -> tuple[Tensor, None]:
        return network(prepare(images.to(device))), None

    with torch.inference_mode(), exact():
        shape = features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))[0].shape
    if len(shape) != 2:
        raise Refused(f"{name} does not make one vector of a picture; choose another network.")
    resize = f"{prepare.interpolation} with antialiasing to {prepare.side} px"
    return Extractor(name, hash_of(network), resize, shape[1], features, batch=BATCH)


def hash_of(network: nn.Module) -> str:
    """sha256 of a network's tensors by name, in order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
