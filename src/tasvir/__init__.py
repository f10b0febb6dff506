"""tasvir trains, samples, measures and compares generative models of images, on any folder of pictures."""

__version__ = "0.1.0"
