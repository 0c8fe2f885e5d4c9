"""The check that a policy loads safely and takes every picture."""

from pathlib import Path

import dagster as dg

from assets import checks
from storage.lineage import Ledger, Work
from storage.objects import Store


def test_the_policy_has_safe_weights_and_takes_every_picture(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path / "root")))
    folder = tmp_path / "policy"
    folder.mkdir()

    def check(name: str, n_rows: int, tokens: int) -> dg.AssetCheckResult:
        summary = {"n_rows_looked_at": n_rows, "image_tokens_max": tokens}
        stored = ledger.put_folder(Work(name, "base"), "policy", "policy", folder, summary)
        return checks.loads_and_fits(ledger, stored, 64)

    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "no safetensors file" in str(check("pickled", 3, 64).description)
    (folder / "model.safetensors").write_bytes(b"x")
    assert check("safe", 3, 64).passed
    assert str(check("unseen", 0, 0).description) == "it was held against no picture"
    assert str(check("large", 3, 65).description) == "a picture becomes 65 image tokens, 64 are allowed"
