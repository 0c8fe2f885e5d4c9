"""The DuckDB catalogue: one file of views over the current Parquet files, made to be deleted and built again.

What is current belongs to `lineage`, the questions asked of the catalogue to `sql/*.sql`, and the small tables
that are counted once, when the catalogue is built, to `sql/kept/*.sql`. The file is built aside and swapped in,
and readers open it read-only, so nobody waits for anybody.
"""

import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.artifacts import Artifact
from storage.current import State
from storage.ledger_tables import LEDGER_DESCRIPTIONS, LEDGER_TABLES, ledger_table
from storage.lineage import Ledger
from storage.objects import Store, StoreError
from storage.schema import SCHEMA_VERSION, TABLE_DESCRIPTIONS, TABLES
from storage.scratch import temporary_folder
from storage.settings import S3Limits
from storage.tables import n_rows_of

CATALOG = "catalog.duckdb"
ATTEMPTS = 5
MOST_NAMED = 10

_DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.list_(pa.string()): "VARCHAR[]",
    pa.list_(pa.float32()): "FLOAT[]",
}


class CatalogError(Exception):
    """A catalogue that cannot be built, opened or asked; the message says what to do."""


def build(ledger: Ledger, at: str = CATALOG, state: State | None = None) -> str:
    """Build the catalogue of what is current as the file `at` under the root; returns its full address.

    Readers see the old file or the new one, never half of one. Tables of another schema version are not in the views
    (`left_out` names them). `state` is the ledger's, if it was read before. Raises CatalogError, StoreError.
    """
    with temporary_folder("catalog") as folder:
        place = folder / CATALOG
        _build_aside(ledger, place, state or State.of(ledger))
        ledger.store.put_file(place, at)
    return ledger.store.url(at)


def _build_aside(ledger: Ledger, place: Path, state: State) -> None:
    connection = duckdb.connect(str(place))
    try:
        _reach_s3(connection, ledger.store.root)
        connection.begin()
        for name in TABLES:
            _create_view(
                connection, name, sorted({ledger.store.url(a.uri) for a in state.shown if a.kind == name})
            )
        for name in LEDGER_TABLES:
            _create_table(connection, name, ledger_table(name, state))
        for name, text in kept().items():
            connection.execute(f'CREATE TABLE "{name}" AS {text}')
            connection.execute(f'COMMENT ON TABLE "{name}" IS {_quoted(_first_line(text))}')
        connection.commit()
    except duckdb.Error as error:
        raise CatalogError(
            f"the catalogue of {ledger.store.root} cannot be built: {error}; "
            "`python -m storage.lineage verify` lists what is missing"
        ) from error
    finally:
        connection.close()


def left_out(state: State) -> list[str]:
    """One sentence that names the current tables that no view shows, for their schema version; [] = all are shown."""
    old = state.left_out
    if not old:
        return []
    named = [f"{a.kind} {a.name} (version {a.versions.get('schema')}, by {a.producer})" for a in old]
    more = f" and {len(old) - MOST_NAMED} more" if len(old) > MOST_NAMED else ""
    return [
        f"{len(old)} current tables have another schema version than {SCHEMA_VERSION} and are not shown until they are "
        f"made anew: {', '.join(named[:MOST_NAMED])}{more}"
    ]


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, urls: Sequence[str]) -> None:
    schema = TABLES[name]
    if urls:
        columns = ", ".join(f'"{f.name}"::{_DUCKDB_TYPES[f.type]} AS "{f.name}"' for f in schema)
        files = ", ".join(_quoted(url) for url in urls)
        # Left to itself, DuckDB reads a folder named source=prod as a column, in place of the file's own.
        read = f"read_parquet([{files}], hive_partitioning = false)"
        body = f"SELECT {columns} FROM {read}"  # noqa: S608  # our schema, quoted paths
        if name == "images":
            # The same picture may come with several sources; the view has it once.
            body += " QUALIFY row_number() OVER (PARTITION BY image_sha256 ORDER BY source, file_name) = 1"
    else:
        columns = ", ".join(f'NULL::{_DUCKDB_TYPES[f.type]} AS "{f.name}"' for f in schema)
        body = f"SELECT {columns} WHERE false"
    connection.execute(f'CREATE VIEW "{name}" AS {body}')
    connection.execute(f'COMMENT ON VIEW "{name}" IS {_quoted(TABLE_DESCRIPTIONS[name])}')
    _describe_columns(connection, name, schema)


def _create_table(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    connection.register("rows_to_keep", rows)
    connection.execute(f'CREATE TABLE "{name}" AS FROM rows_to_keep')
    connection.unregister("rows_to_keep")
    connection.execute(f'COMMENT ON TABLE "{name}" IS {_quoted(LEDGER_DESCRIPTIONS[name])}')
    _describe_columns(connection, name, LEDGER_TABLES[name])


def _describe_columns(connection: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema) -> None:
    for field in schema:
        description = field.metadata[b"description"].decode()
        connection.execute(f'COMMENT ON COLUMN "{name}"."{field.name}" IS {_quoted(description)}')


def connect(root: str, read_only: bool = True) -> duckdb.DuckDBPyConnection:
    """Open the catalogue that `build` made last under a root, with S3 reachable if the root is there.

    The file is attached, so a connection opened after a rebuild sees the new catalogue even while older ones
    of the same process keep the old. `read_only=False` attaches it for writing: views of one's own are lost
    with the next build. Raises CatalogError if there is none.
    """
    store = Store(root)
    try:
        place = store.fetch(CATALOG)
    except StoreError as error:
        raise CatalogError(f"no catalogue: {error}; run the job prepare_data to build it") from error
    return _attach(place, store.root, read_only)


def _attach(place: Path, root: str, read_only: bool = True) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    try:
        _reach_s3(connection, root)
        mode = "(READ_ONLY)" if read_only else ""
        connection.execute(f"ATTACH {_quoted(str(place))} AS catalog {mode}")
        connection.execute("USE catalog")
    except duckdb.Error as error:
        connection.close()
        raise CatalogError(f"{place}: cannot be opened: {error}; delete it and build it again") from error
    return connection


def questions() -> dict[str, str]:
    """The stored queries: name and the question that each answers (the first line of its file)."""
    return {name: _first_line(text) for name, text in _texts("sql").items()}


def stored(name: str) -> str:
    """The SQL of a stored query. Raises CatalogError."""
    texts = _texts("sql")
    if name not in texts:
        raise CatalogError(f"query {name!r}: not known; there are {', '.join(texts)}")
    return texts[name]


def kept() -> dict[str, str]:
    """The tables that a build counts once from the views: name and SQL, its first line saying what it holds."""
    return _texts("sql/kept")


def _texts(folder: str) -> dict[str, str]:
    files = [f for f in resources.files("storage").joinpath(folder).iterdir() if f.name.endswith(".sql")]
    return dict(sorted((f.name.removesuffix(".sql"), f.read_text(encoding="utf-8")) for f in files))


def _first_line(text: str) -> str:
    return text.splitlines()[0].removeprefix("--").strip()


def query(
    root: str, sql_name_or_text: str, params: Mapping[str, Any] | Sequence[Any] | None = None
) -> pa.Table:
    """The answer to a stored query, by name, or to SQL text, from the catalogue under a root.

    Values go in as parameters ($name or ?), never into the text. Raises CatalogError.
    """
    text = sql_name_or_text
    if text.replace("_", "").isalnum():
        text = stored(text)
    connection = connect(root)
    try:
        values = dict(params) if isinstance(params, Mapping) else list(params or [])
        return connection.execute(text, values).to_arrow_table()
    except duckdb.Error as error:
        # A stored query names only what a build makes, so what it misses is not in the file yet.
        old = text != sql_name_or_text and isinstance(error, duckdb.CatalogException)
        advice = (
            "; the catalogue is older than the query, run the job prepare_data to build it" if old else ""
        )
        raise CatalogError(f"query {sql_name_or_text[:80]!r}: {error}{advice}") from error
    finally:
        connection.close()


def problems(ledger: Ledger, state: State | None = None) -> list[str]:
    """Where the stored catalogue differs from a rebuild, or its counts from the Parquet files; [] = fine.

    All is held against one state of the ledger: the given one, else that of this moment.
    """
    found = []
    state = state or State.of(ledger)
    with connect(ledger.store.root) as old_file:
        for name in TABLES:
            wanted = _n_rows(ledger, [artifact for artifact in state.shown if artifact.kind == name])
            seen = old_file.table(name).count("*").fetchall()[0][0]
            if seen != wanted:
                found.append(f"view {name}: {seen} rows, the current Parquet files have {wanted}")
        old = _content(old_file)
    with temporary_folder("catalog") as folder:
        _build_aside(ledger, folder / CATALOG, state)
        with _attach(folder / CATALOG, ledger.store.root) as rebuilt:
            new = _content(rebuilt)
    changed = [part for part in new if not _alike(old.get(part), new[part])]
    return found + [f"{part}: not as a rebuild makes it; build the catalogue again" for part in changed]


def build_and_compare(ledger: Ledger) -> tuple[State, list[str]]:
    """Build, and hold the stored file against the state that it was built from: that state, and `problems`.

    Other processes may write meanwhile, and put a catalogue of theirs over it, be it of an earlier state: where the
    file differs, it is done again.
    """
    n_moved = 0
    for _ in range(ATTEMPTS):
        state = State.of(ledger)
        build(ledger, state=state)
        found = problems(ledger, state)
        if not found:
            return state, []
        n_moved += State.of(ledger) != state
    wrote = f"{n_moved} times another process wrote while the catalogue was compared"
    return state, [*found, wrote] if n_moved else found


def _n_rows(ledger: Ledger, artifacts: Sequence[Artifact]) -> int:
    """Rows of a table's files, read without DuckDB; a picture of several sources counts once."""
    files = {artifact.uri: artifact for artifact in artifacts}.values()
    if not any(artifact.kind == "images" for artifact in files):
        return sum(n_rows_of(ledger.path(artifact), artifact.kind) for artifact in files)
    tables = [ledger.read_table(artifact, ["image_sha256"]) for artifact in files]
    return int(pc.count_distinct(pa.concat_tables(tables)["image_sha256"]).as_py())


def _content(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What a catalogue file holds: its view definitions and its tables, in the order that they are stored."""
    views = "SELECT view_name, sql FROM duckdb_views() WHERE database_name = 'catalog' AND NOT internal"
    content: dict[str, Any] = {"views": sorted(connection.execute(views).fetchall())}
    for name in LEDGER_TABLES:
        content[name] = connection.execute(f'SELECT * FROM "{name}" ORDER BY ALL').fetchall()  # noqa: S608
    for (name,) in connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'catalog' ORDER BY table_name"
    ).fetchall():
        if name not in content:
            content[name] = connection.execute(f'SELECT * FROM "{name}"').fetchall()  # noqa: S608  # our name
    return content


def _alike(old: Any, new: Any) -> bool:
    """Equal, but for the last digits of a mean, which depend on the order in which threads add."""
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(map(_alike, old, new))
    return bool(old == new)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _reach_s3(connection: duckdb.DuckDBPyConnection, root: str) -> None:
    """Load httpfs and give it the credentials, region and endpoint that the AWS libraries find; only for S3.

    The extension comes from its package, nothing is downloaded. The secret lives in this connection alone.
    """
    if not root.startswith("s3://"):
        return
    import botocore.session
    import duckdb_extension_httpfs

    session = botocore.session.get_session()
    credentials = session.get_credentials()
    if credentials is None:
        raise CatalogError(
            f"{root}: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    frozen = credentials.get_frozen_credentials()
    client = session.create_client("s3", region_name=session.get_config_variable("region") or "us-east-1")
    scheme, _, host = client.meta.endpoint_url.partition("://")
    options = {
        "KEY_ID": frozen.access_key,
        "SECRET": frozen.secret_key,
        "SESSION_TOKEN": frozen.token,
        "REGION": client.meta.region_name,
    }
    if not host.endswith("amazonaws.com"):
        options |= {"ENDPOINT": host.rstrip("/"), "URL_STYLE": "path", "USE_SSL": scheme == "https"}
    given = {name: value for name, value in options.items() if value is not None}
    folder = Path(next(iter(duckdb_extension_httpfs.__path__)))
    extension = folder / "extensions" / f"v{duckdb.__version__}" / "httpfs.duckdb_extension"
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute(f"LOAD {_quoted(os.fspath(extension))}")
    limits = S3Limits.from_environment()
    connection.execute(f"SET http_timeout = {max(1, round(limits.read_timeout_s))}")
    connection.execute(f"SET http_retries = {limits.attempts - 1}")
    names = ", ".join(f"{name} ?" for name in given)
    connection.execute(f"CREATE SECRET root (TYPE s3, {names})", list(given.values()))
