-- Is every row that came in either an example or refused, by source? (lost = 0: yes; empty: not recorded)
WITH came_in AS (
    SELECT name AS source, max((summary ->> '$.rows_in')::BIGINT) AS rows_in
    FROM artifacts
    WHERE kind = 'examples' AND is_current
    GROUP BY name
),
kept AS (
    SELECT source, count(*) AS n FROM examples GROUP BY source
),
refused AS (
    SELECT source, count(*) AS n FROM quarantine GROUP BY source
)
SELECT
    source,
    i.rows_in,
    coalesce(k.n, 0) AS n_examples,
    coalesce(r.n, 0) AS n_refused,
    i.rows_in - n_examples - n_refused AS lost
FROM came_in AS i
FULL JOIN kept AS k USING (source)
FULL JOIN refused AS r USING (source)
ORDER BY abs(lost) DESC NULLS LAST, source;
