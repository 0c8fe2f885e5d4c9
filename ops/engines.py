"""Where the pieces of a source are worked on: in threads here, or on the machines of a Ray cluster.

Here: running one function over many items, with the results in order. Not here: what the function does; it is the same
one everywhere, and gives the same rows.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

from ops.ahead import ahead
from storage.settings import ENGINES

Item = TypeVar("Item")
Result = TypeVar("Result")

_ITEMS_PER_CPU = 4


class EngineError(RuntimeError):
    """An engine that cannot be had; the message says what is missing."""


class Engine(Protocol):
    """Runs `work` on each item and gives all that comes of it, in the order of the items."""

    in_process: bool
    """Whether all work sees the same memory."""

    def run(self, work: Callable[[Item], Iterable[Result]], items: Iterable[Item]) -> Iterator[Result]:
        """Items are taken as they are needed. Raises what `work` raises."""
        ...


class LocalEngine:
    """Threads of this process. What `work` makes on demand is made where the results are taken."""

    in_process = True

    def __init__(self, n_threads: int = 2) -> None:
        self._n_threads = n_threads

    def run(self, work: Callable[[Item], Iterable[Result]], items: Iterable[Item]) -> Iterator[Result]:
        """At most one item more than there are threads is begun and not yet taken."""
        return chain.from_iterable(ahead(work, items, self._n_threads, self._n_threads + 1))


class RayEngine:
    """Ray Data: the cluster of RAY_ADDRESS, or one that Ray starts on this machine.

    Workers need this project installed, and reach sources and pictures by the same addresses: a shared folder or S3.
    Items and results pass through Ray's object store, a few for every processor at a time.
    """

    in_process = False

    def run(self, work: Callable[[Item], Iterable[Result]], items: Iterable[Item]) -> Iterator[Result]:
        """Raises EngineError where Ray is not installed."""
        try:
            import ray.data
        except ImportError as error:
            raise EngineError(
                "engine 'ray': not installed; pip install 'saliency-r1-pipeline[ray]'"
            ) from error
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        at_once = _ITEMS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = iter(items)
        while window := list(islice(waiting, at_once)):
            rows = [{"number": number, "item": item} for number, item in enumerate(window)]
            data = ray.data.from_items(rows, override_num_blocks=len(rows))
            done = data.map(partial(_worked, work)).take_all()
            for row in sorted(done, key=lambda each: each["number"]):
                yield from row["results"]


def engine_of(name: str) -> Engine:
    """The engine of a name. Raises EngineError naming those there are."""
    if name not in ENGINES:
        raise EngineError(f"engine {name!r}: wanted one of {', '.join(ENGINES)}")
    return RayEngine() if name == "ray" else LocalEngine()


def _worked(work: Callable[[Any], Iterable[Any]], row: dict[str, Any]) -> dict[str, Any]:
    return {"number": row["number"], "results": list(work(row["item"]))}
