"""Tables held to their schema, and the same rows giving the same bytes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import tables
from storage.schema import ALLOWED_VALUES, TABLE_DESCRIPTIONS, TABLES
from storage.tables import TableError, empty, encode_table, from_rows, read_table
from tests.storage import small_world

BOX = {"example_id": "e", "box_index": 0, "x1_px": 0.5, "y1_px": 1.0, "x2_px": 3.0, "y2_px": 2.0}


def test_every_column_says_what_it_holds():
    assert set(TABLE_DESCRIPTIONS) == set(TABLES)
    for name, schema in TABLES.items():
        for field in schema:
            assert len(field.metadata[b"description"]) > 3, f"{name}.{field.name}"
    for name, column in ALLOWED_VALUES:
        assert column in TABLES[name].names


@pytest.mark.parametrize("name", list(TABLES))
def test_an_empty_table_survives_the_file(name: str):
    back = read_table(encode_table(name, empty(name)), name=name)
    assert back.num_rows == 0
    assert back.schema.equals(TABLES[name], check_metadata=False)
    assert back.schema.field(0).metadata[b"description"] == TABLES[name].field(0).metadata[b"description"]


def test_rows_survive_the_file(tmp_path):
    rows = small_world.examples()
    (tmp_path / "t.parquet").write_bytes(encode_table("examples", from_rows("examples", rows)))
    back = read_table(tmp_path / "t.parquet", name="examples").to_pylist()
    assert [{k: row[k] for k in rows[0]} for row in back] == rows
    assert back[0]["reasoning"] is None
    assert read_table(tmp_path / "t.parquet", ["answer"]).column_names == ["answer"]


def test_the_same_rows_give_the_same_bytes_however_they_are_cut():
    # Many enough for several pages a column: the cuts would show in the bytes.
    rows = [{**BOX, "box_index": i, "x1_px": i / 7, "label": f"{i:>60}"} for i in range(60_000)]
    whole = from_rows("boxes", rows)
    pieces = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 30_001), whole.slice(30_008)])
    assert pieces.column(0).num_chunks == 3
    other_order = whole.select(list(reversed(whole.column_names)))
    assert encode_table("boxes", whole) == encode_table("boxes", pieces) == encode_table("boxes", other_order)


def test_several_row_groups_keep_all_rows(monkeypatch):
    monkeypatch.setattr(tables, "_DEFAULT_ROWS_PER_GROUP", 3)
    data = encode_table("boxes", from_rows("boxes", [{**BOX, "box_index": i} for i in range(7)]))
    assert pq.ParquetFile(pa.BufferReader(data)).num_row_groups == 3  # 3 + 3 + 1
    assert read_table(data).column("box_index").to_pylist() == list(range(7))


def test_all_mismatches_come_in_one_error():
    bad = pa.table(
        {
            "example_id": ["e", None],
            "box_index": pa.array([0, 1], pa.int64()),
            "x1_px": [float("nan"), 1.0],
            "y1_px": [0.0, 0.0],
            "x2_px": [float("inf"), 1.0],
            "extra": [1, 2],
        }
    )
    with pytest.raises(TableError) as caught:
        encode_table("boxes", bad)
    for part in (
        "column extra: not in the schema",
        "column example_id: 1 nulls",
        "column box_index: is int64, wanted int32",
        "column x1_px: 1 values are NaN",
        "column x2_px: 1 values are NaN or infinite",
        "column y2_px: missing, wanted double",
        "column label: missing",
    ):
        assert part in str(caught.value)


def test_rows_with_wrong_fields_are_refused_with_their_number():
    with pytest.raises(TableError) as caught:
        from_rows("boxes", [BOX, {**BOX, "x1": 3}, {k: v for k, v in BOX.items() if k != "y2_px"}])
    assert "row 1: unknown columns ['x1']" in str(caught.value)
    assert "row 2: no value for ['y2_px']" in str(caught.value)
    with pytest.raises(TableError, match="column box_index: wanted int32"):
        from_rows("boxes", [{**BOX, "box_index": 2**40}])


def test_reasons_come_from_the_closed_list():
    with pytest.raises(TableError, match=r"column reason: \['bad luck'\], allowed are missing_file"):
        from_rows("quarantine", [{**small_world.refusal(), "reason": "bad luck"}])


def test_a_list_of_numbers_holds_finite_ones_only():
    row = {"flow_id": "f", "policy_id": "p@1", "policy": "p", "example_id": "e", "image_sha256": "s"}
    row |= {"completion_sha256": "c", "rows": "state", "looked_at": [0.5, float("nan"), float("inf")]}
    with pytest.raises(TableError, match="looked_at: 2 values are NaN or infinite"):
        from_rows("token_flows", [row])
    (back,) = from_rows(
        "token_flows",
        [
            row | {"looked_at": [0.5]},
        ],
    ).to_pylist()
    assert (back["looked_at"], back["thoughts_used"]) == ([0.5], None)


def test_what_a_diverging_run_measured_is_kept():
    step = {"policy_id": "p@1", "stage": "sft", "step": 1, "loss": float("nan")}
    (back,) = read_table(encode_table("training_steps", from_rows("training_steps", [step]))).to_pylist()
    assert back["loss"] != back["loss"]
    assert back["entropy"] is None


def test_another_version_another_table_and_no_table_are_refused(monkeypatch):
    data = encode_table("boxes", empty("boxes"))
    with pytest.raises(TableError, match="holds table 'boxes', wanted 'splits'"):
        read_table(data, name="splits")
    with pytest.raises(TableError, match="not a readable Parquet file"):
        read_table(data[:-100])
    with pytest.raises(TableError, match="not a readable Parquet file"):
        read_table("/nowhere/t.parquet")
    with pytest.raises(TableError, match="'bowls': not known"):
        empty("bowls")
    monkeypatch.setattr(tables, "SCHEMA_VERSION", 99)
    with pytest.raises(TableError, match="schema version 5, wanted 99"):
        read_table(data)
