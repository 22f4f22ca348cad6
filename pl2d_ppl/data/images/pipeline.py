"""Batches of images, decoded and augmented on the host by grain while the device computes."""

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from absl import flags
from numpy.typing import NDArray

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.images._grain import grain
from pl2d_ppl.data.images.reading import check_image, source_of
from pl2d_ppl.data.images.transforms import Composed, Normalise, Transform, check_numbers, check_transforms

__all__ = ["ImageBatches", "ImagePipeline"]

FIELDS = ("annotations", "y", "group", "coarse", "counts")  # and "item", the number of the item
AHEAD = 2  # batches that a thread, or a worker, prepares


class ImagePipeline:
    """Batches of images for training: decoded, transformed and collected while the device computes.

    Every epoch has its own order, and its own random numbers for each item. Both depend only on the seed, the epoch and
    the item, not on the number of workers or the point where a stream of batches was resumed.

    Parameters
    ----------
    data : Annotated
        Items whose ``x`` are images: a source, or an array of whole numbers 0..255.
    transforms : sequence of grain.transforms.Map or grain.transforms.RandomMap
        Transforms of an item, in this order, such as :class:`~pl2d_ppl.data.Resize`,
        :class:`~pl2d_ppl.data.RandomCrop`, :class:`~pl2d_ppl.data.RandomFlip`, :class:`~pl2d_ppl.data.RandAugment`, and
        finally :class:`~pl2d_ppl.data.Normalise`, without which images stay bytes. They take, and return, a dict of
        ``x``, an image of shape (height, width, channels), and the `fields`.
    batch_size : int
        Items per batch.
    epochs : int
        Passes over the data.
    seed : int
        Seed of the order and of the transforms.
    shuffle : bool
        Whether to shuffle the items.
    drop_remainder : bool
        Whether to leave out items at the end of an epoch that do not fill a batch.
    num_workers : int
        Processes that prepare batches; 0 for threads of this process, which suffice if decoding takes most of the time,
        since Pillow releases Python's lock. A script that starts workers needs ``if __name__ == "__main__":``.
    fields : sequence of str
        Contents of a batch besides ``x``, out of ``annotations``, ``y``, ``group``, ``coarse``, ``counts`` and
        ``item``, the item's number.

    Raises
    ------
    ValueError
        If arguments do not fit, or the first item cannot be read and transformed.
    """

    def __init__(
        self,
        data: Annotated,
        transforms: Sequence[Transform] | None = None,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        shuffle: bool = True,
        drop_remainder: bool = True,
        num_workers: int = 0,
        fields: Sequence[str] = ("annotations", "y"),
    ):
        self.transforms = (Normalise(),) if transforms is None else tuple(transforms)
        check_transforms(self.transforms)
        check_numbers(batch_size=(batch_size, 1), epochs=(epochs, 1), num_workers=(num_workers, 0), seed=(seed, 0))
        if drop_remainder and batch_size > data.num_items:
            raise ValueError(
                f"Expected at least batch_size={batch_size} items, found {data.num_items}. Lower it, or pass "
                "drop_remainder=False."
            )
        self.data, self.batch_size, self.seed, self.num_workers = data, batch_size, seed, num_workers
        self.shuffle, self.drop_remainder = shuffle, drop_remainder
        order_seed, item_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
        items = grain.MapDataset.source(_Items(data, tuple(fields)))
        # Before the shuffle, an element's index, which seeds its random numbers, depends on its item and epoch.
        self._items = items.random_map(Composed(self.transforms), seed=item_seed)
        ordered = self._items.shuffle(seed=order_seed) if shuffle else self._items
        self._epoch = ordered.batch(batch_size, drop_remainder=drop_remainder, batch_fn=_stack)
        self.dataset = self._epoch.repeat(epochs)
        self._items[0]

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return len(self._epoch)

    def __len__(self) -> int:
        """Return the number of batches of all epochs."""
        return len(self.dataset)

    def __iter__(self) -> "ImageBatches":
        """Return the batches of all epochs, see :class:`ImageBatches`."""
        return ImageBatches(self)

    def epoch(self, number: int) -> Iterator[dict[str, NDArray]]:
        """Yield the batches of one epoch; its number may exceed `epochs`.

        Parameters
        ----------
        number : int
            Number of the epoch, from 0.

        Yields
        ------
        dict of str to array
            A batch.
        """
        check_numbers(number=(number, 0))
        steps = self.steps_per_epoch
        batches = ImageBatches(self, self._epoch.repeat(number + 1), number * steps)
        try:
            yield from batches
        finally:
            batches.close()

    def read(self, epoch: int = 0) -> Annotated:
        """Transform all items as in one epoch, into memory, in the order of the data.

        The result gives images of any size as the ``x`` of :func:`~pl2d_ppl.fit`, or augmented images epoch by epoch::

            for epoch in range(epochs):
                data = pipeline.read(epoch).batch()
                result = fit(key, model, guide, data, optimizer, epochs=epoch + 1, batch_size=128, resume=result)

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0.

        Returns
        -------
        Annotated
            The same items, with an array as ``x``, float32.

        Raises
        ------
        ValueError
            If an item cannot be read, or items differ in shape.
        """
        check_numbers(epoch=(epoch, 0))
        ordered = self._items.batch(self.batch_size, batch_fn=_stack)
        batches = ImageBatches(self, ordered.repeat(epoch + 1), epoch * len(ordered))
        try:
            parts = [batch["x"] for batch in batches if "x" in batch]
        finally:
            batches.close()
        if not parts:
            raise ValueError("Expected a view called x, found none. Name one of the Views x.")
        return replace(self.data, x=np.concatenate(parts), subset=True)

    @property
    def signature(self) -> dict[str, Any]:
        """Settings of a stream of batches, besides transforms: states with other settings are refused."""
        names = ("seed", "batch_size", "shuffle", "drop_remainder")
        return {name: getattr(self, name) for name in names} | {"items": self.data.num_items}


class ImageBatches(grain.DatasetIterator):
    """Stream of batches that can be resumed bit for bit, with any number of workers.

    Its state is a small dict of numbers, for JSON, or for Orbax by ``grain.checkpoint.CheckpointHandler``.

    Parameters
    ----------
    pipeline : ImagePipeline
        Source of the batches.
    dataset : grain.MapDataset, optional
        The batches; by default all batches of the pipeline.
    step : int
        Number of the first batch.
    """

    def __init__(self, pipeline: ImagePipeline, dataset: grain.MapDataset | None = None, step: int = 0):
        super().__init__()
        self._pipeline, self._step = pipeline, step
        self._batches = pipeline.dataset if dataset is None else dataset
        self._stream: grain.DatasetIterator | None = None
        self._is_open = True

    def __next__(self) -> dict[str, NDArray]:
        """Return the next batch."""
        if not self._is_open:
            raise ValueError("Expected an open stream of batches, found a closed one. Begin another: iter(pipeline).")
        if self._step >= len(self._batches):
            self._stop()
            raise StopIteration
        if self._stream is None:
            self._stream = self._start()
        batch = next(self._stream)
        self._step += 1
        return batch

    def _start(self) -> grain.DatasetIterator:
        workers = self._pipeline.num_workers
        threads = 1 if workers else min(4, os.cpu_count() or 1)
        reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD * threads)
        stream = self._batches.slice(slice(self._step, None)).to_iter_dataset(reading)
        if workers:
            _set_flags()
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=AHEAD))
        return iter(stream)

    def get_state(self) -> dict[str, Any]:
        """Return the state of the stream: the number of batches given, and the settings."""
        return {"step": self._step, **self._pipeline.signature}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of another stream of the same pipeline.

        Parameters
        ----------
        state : mapping
            State from :meth:`get_state`.

        Raises
        ------
        ValueError
            If it belongs to another pipeline.
        """
        expected = self._pipeline.signature
        found = {name: state.get(name) for name in expected}
        step = state.get("step", -1)
        if found != expected or not 0 <= step <= len(self._batches):
            raise ValueError(
                f"Expected a state of this pipeline, {expected}, within its {len(self._batches)} batches, found "
                f"{dict(state)}. Build the pipeline as before."
            )
        self._stop()
        self._step = step

    def close(self) -> None:
        """Stop the workers."""
        self._stop()
        self._is_open = False
        super().close()

    def _stop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            if self._pipeline.num_workers:
                # Otherwise the garbage collector may find the workers' semaphores while new ones are made, and Python's
                # resource tracker then warns.
                gc.collect()


def _set_flags() -> None:
    """Let workers start in scripts that parse no flags of absl, a step that grain 0.2.18 lacks (google/grain#1355)."""
    name = "grain_enable_multiprocess_worker_profiling"
    if name in flags.FLAGS and not flags.FLAGS.is_parsed():
        flags.FLAGS[name].present = 1


class _Items:
    """Items as dicts of an image and its labels."""

    def __init__(self, data: Annotated, fields: tuple[str, ...]):
        self.x: Any = data.x
        self.names: Callable[[int], str] = source_of(data)[1] if data.is_lazy else "item {}".format
        self.labels = {name: _field(data, name) for name in fields}

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, NDArray]:
        image = check_image(self.x[index], self.names(index))
        return {"x": image, **{name: values[index] for name, values in self.labels.items()}}


def _field(data: Annotated, name: str) -> NDArray:
    if name not in (*FIELDS, "item"):
        raise ValueError(f"Expected fields out of {', '.join((*FIELDS, 'item'))}, found {name!r}.")
    values = np.arange(data.num_items, dtype=np.int32) if name == "item" else getattr(data, name)
    if values is None:
        raise ValueError(f"Expected data with {name!r}, as among the fields, found none. Leave it out of fields.")
    return values


def _stack(elements: Sequence[Mapping[str, NDArray]]) -> dict[str, NDArray]:
    batch = {}
    for name in elements[0]:
        shapes = {np.shape(element[name]) for element in elements}
        if len(shapes) > 1:
            raise ValueError(
                f"Expected {name} of one shape in a batch, found {' and '.join(map(str, sorted(shapes)[:3]))}. Add "
                "Resize((height, width)), or Resize and CenterCrop or RandomCrop, to the transforms."
            )
        batch[name] = np.stack([element[name] for element in elements])
    return batch
