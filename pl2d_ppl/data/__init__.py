"""Data for learning to defer: the container, its readers and writers, images, and ways to split them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.augment import Augment, augment, augmented
from pl2d_ppl.data.embed import embed
from pl2d_ppl.data.npz import read_npz, write_npz
from pl2d_ppl.data.source import Part, Source
from pl2d_ppl.data.split import split, standardise

if TYPE_CHECKING:
    from pl2d_ppl.data.formats import read_data, write_data
    from pl2d_ppl.data.image_reading import BadImage, ImageReport, check_images, read_images
    from pl2d_ppl.data.images import EncodedImages, ImageFolder
    from pl2d_ppl.data.json_files import read_json, read_json_folder
    from pl2d_ppl.data.json_writing import write_json_files
    from pl2d_ppl.data.pipeline import ImageBatches, ImagePipeline
    from pl2d_ppl.data.randaugment import Cutout, RandAugment
    from pl2d_ppl.data.table_writing import write_table
    from pl2d_ppl.data.tables import read_table
    from pl2d_ppl.data.tfds import load_tfds
    from pl2d_ppl.data.transforms import CenterCrop, Normalise, RandomCrop, RandomFlip, Resize, Views
    from pl2d_ppl.data.trees import from_dataset, read_netcdf, to_dataset, write_netcdf

__all__ = [
    "Annotated",
    "Augment",
    "BadImage",
    "CenterCrop",
    "Cutout",
    "EncodedImages",
    "ImageBatches",
    "ImageFolder",
    "ImagePipeline",
    "ImageReport",
    "Normalise",
    "Part",
    "RandAugment",
    "RandomCrop",
    "RandomFlip",
    "Resize",
    "Source",
    "Views",
    "augment",
    "augmented",
    "check_images",
    "embed",
    "from_dataset",
    "load_tfds",
    "read_data",
    "read_images",
    "read_json",
    "read_json_folder",
    "read_netcdf",
    "read_npz",
    "read_table",
    "split",
    "standardise",
    "to_dataset",
    "write_data",
    "write_json_files",
    "write_netcdf",
    "write_npz",
    "write_table",
]

# What needs packages that training does not, such as pandas, Pillow or grain, is imported when it is asked for.
_LAZY = {
    "formats": ("read_data", "write_data"),
    "image_reading": ("BadImage", "ImageReport", "check_images", "read_images"),
    "images": ("EncodedImages", "ImageFolder"),
    "json_files": ("read_json", "read_json_folder"),
    "json_writing": ("write_json_files",),
    "pipeline": ("ImageBatches", "ImagePipeline"),
    "randaugment": ("Cutout", "RandAugment"),
    "table_writing": ("write_table",),
    "tables": ("read_table",),
    "tfds": ("load_tfds",),
    "transforms": ("CenterCrop", "Normalise", "RandomCrop", "RandomFlip", "Resize", "Views"),
    "trees": ("from_dataset", "read_netcdf", "to_dataset", "write_netcdf"),
}


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names:
            value = getattr(import_module(f"pl2d_ppl.data.{module}"), name)
            globals()[name] = value  # which the import of a module of that name would hide
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
