"""Which keys were there before, among millions: hashes as numbers, in few bytes each.

Not here: what is done with a key that comes again.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class _Run:
    """Keys sorted by their first 8 bytes: those, the other bytes, and the row that each was first seen in."""

    first: np.ndarray
    rest: np.ndarray
    rows: np.ndarray


class SeenKeys:
    """Hashes of one length and the row in which each was first seen; exact, however many there are."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def add(self, hashes: pa.ChunkedArray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Remember hashes; which of them are new, bool, and the row in which each was first seen, int64.

        `hashes`: hex texts of one length, at least 16 digits; `rows`: int64, one each.
        """
        if not len(hashes):
            return np.zeros(0, bool), rows
        first, rest = _parts(hashes)
        order = np.argsort(first, kind="stable")
        run = _Run(first[order], rest[order], rows[order])
        again = np.zeros(len(first), bool)  # in the order of the run
        again[1:] = run.first[1:] == run.first[:-1]
        for earlier in self._runs:
            at = np.minimum(np.searchsorted(earlier.first, run.first), len(earlier.first) - 1)
            again |= earlier.first[at] == run.first
        found = rows.copy()
        new = np.ones(len(first), bool)
        for place in np.flatnonzero(again).tolist():
            before = self._row(run, place)
            if before is not None:
                found[order[place]] = before
                new[place] = False
        self._keep(_Run(run.first[new], run.rest[new], run.rows[new]))
        is_new = np.empty(len(new), bool)
        is_new[order] = new
        return is_new, found

    def _row(self, run: _Run, place: int) -> int | None:
        """The first row of the key at a place of the run, in earlier runs or before it in its own."""
        for each in (*self._runs, run):
            at = int(np.searchsorted(each.first, run.first[place]))
            while at < len(each.first) and each.first[at] == run.first[place]:
                if each is run and at >= place:
                    break
                if each.rest[at] == run.rest[place]:
                    return int(each.rows[at])
                at += 1
        return None

    def _keep(self, run: _Run) -> None:
        """Keep few runs: neighbours of about one length become one, so that each key is sorted a few times."""
        if not len(run.first):
            return
        while self._runs and len(self._runs[-1].first) <= 2 * len(run.first):
            last = self._runs.pop()
            parts = [np.concatenate(pair) for pair in zip(_columns(last), _columns(run), strict=True)]
            order = np.argsort(parts[0], kind="stable")
            run = _Run(*(part[order] for part in parts))
        self._runs.append(run)


def _columns(run: _Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return run.first, run.rest, run.rows


def _parts(hashes: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    data = bytes.fromhex("".join(hashes.to_pylist()))
    table = np.frombuffer(data, np.uint8).reshape(len(hashes), -1)
    first = np.ascontiguousarray(table[:, :8]).view(np.uint64).ravel()
    rest = np.ascontiguousarray(table[:, 8:])
    return first, rest.view(f"V{rest.shape[1]}").ravel() if rest.shape[1] else np.zeros(len(first), "V1")
