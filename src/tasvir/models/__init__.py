"""The table of recipes: one line each, read without importing a model until its recipe is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tasvir.config import Foundation, Pictures, Refused, nearest

if TYPE_CHECKING:
    from tasvir.core import Model, Recipe

RECIPES: dict[str, str] = {
    "ae": "autoencoders.ae",
    "vae": "autoencoders.vae",
    "vae-2d": "autoencoders.vae",
    "vae-256": "autoencoders.vae_256",
    "beta-vae": "autoencoders.vae",
    "vae-vamp": "autoencoders.vae",
    "sigma-vae": "autoencoders.vae",
    "cs-vae": "autoencoders.vae",
    "cvae": "autoencoders.cvae",
    "iwae": "autoencoders.iwae",
    "wae-mmd": "autoencoders.wae",
    "rae": "autoencoders.rae",
    "discrete-vae": "autoencoders.discrete_vae",
    "kl-autoencoder": "autoencoders.kl_autoencoder",
    "vq-vae": "autoencoders.vq_vae",
    "vq-vae-2-tokenizer": "autoencoders.vq_vae_2",
    "vq-vae-2-tokenizer-256": "autoencoders.vq_vae_2",
    "pixelcnn": "autoregressive.pixelcnn",
    "vq-vae-pixelcnn": "autoregressive.code_prior",
    "vq-vae-2": "autoregressive.code_prior",
    "vq-vae-2-256": "autoregressive.code_prior",
    "gan": "adversarial.gan",
    "dcgan": "adversarial.dcgan",
    "lsgan": "adversarial.dcgan",
    "wgan": "adversarial.dcgan",
    "wgan-gp": "adversarial.dcgan",
    "r3gan": "adversarial.r3gan",
    "stylegan2": "adversarial.stylegan2",
    "stylegan2-small": "adversarial.stylegan2",
    "wgan-gp-resnet": "adversarial.wgan_gp_resnet",
    "sngan": "adversarial.sngan",
    "pd-gan": "adversarial.pd_gan",
    "infogan": "adversarial.infogan",
    "sgan": "adversarial.sgan",
    "sgan-cifar10": "adversarial.sgan",
    "cgan": "adversarial.cgan",
    "cgan-cifar10": "adversarial.cgan",
    "ac-gan": "adversarial.ac_gan",
    "pix2pix": "translation.pix2pix",
    "pix2pix-256": "translation.pix2pix",
    "edges": "translation.pix2pix",
    "inpaint": "translation.pix2pix",
    "denoise": "translation.pix2pix",
    "colorize": "translation.colorize",
    "cyclegan": "translation.cyclegan",
    "pix2pixhd": "translation.pix2pixhd",
    "srresnet": "translation.srresnet",
    "rrdbnet": "translation.srresnet",
    "srgan": "translation.srgan",
    "esrgan": "translation.srgan",
    "ddpm": "diffusion.ddpm",
    "ddpm-64": "diffusion.ddpm",
    "ddpm-cifar10": "diffusion.ddpm",
    "edm": "diffusion.edm",
    "flow": "diffusion.flow",
    "ldm": "diffusion.ldm",
    "consistency": "diffusion.consistency",
}


def recipe(name: str) -> "Recipe":
    """The recipe of that name: an entry of `RECIPES` in its module. Raises `Refused`, naming the nearest ones."""
    if name not in RECIPES:
        raise Refused(
            f"There is no recipe {name!r}.{nearest(name, RECIPES)}\n`tasvir recipes` lists all: {', '.join(RECIPES)}."
        )
    return import_module(f"tasvir.models.{RECIPES[name]}").RECIPES[name]


def build(name: str, config: Any, pictures: Pictures, foundation: Foundation | None = None) -> "Model":
    """An untrained model of that recipe, on an equally untrained foundation if it has one."""
    kind = recipe(name).model
    if foundation is None:
        return kind(config, pictures)
    return kind(config, pictures, recipe(foundation.recipe).model(foundation.model, pictures))


def usual_foundation(name: str, tiny: bool = False) -> Foundation | None:
    """What a recipe stands on where no run is named, not trained yet; None if it stands on nothing."""
    below = recipe(name).foundation
    if below is None:
        return None
    return Foundation(below, recipe(below).tiny if tiny else recipe(below).config, FOUNDATION)


FOUNDATION = "foundation"
"""Folder, inside a run's own, of the run that it stands on."""
