"""The read model that every projection writes: one row per event."""

TABLE = (
    "CREATE TABLE IF NOT EXISTS read_model (id {id} PRIMARY KEY, stream text, version bigint, total float)"
)
COLUMNS = "INSERT INTO read_model (id, stream, version, total) VALUES"
NAMED = f"{COLUMNS} (:id, :stream, :version, :total)"
PLACED = f"{COLUMNS} (%s, %s, %s, %s)"
EMPTY = "TRUNCATE read_model"
COUNT = "SELECT count(*) FROM read_model"
