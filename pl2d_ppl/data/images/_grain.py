"""The parts of grain, an extra, that images use."""

try:
    import grain
    from grain.transforms import Map, RandomMap
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Expected grain for images, found none. Run pip install 'pl2d_ppl[images]'.") from error

__all__ = ["Map", "RandomMap", "grain"]
