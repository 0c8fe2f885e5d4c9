-- Which rows were refused, why, and where does one of each stand?
SELECT
    source,
    stage,
    reason,
    count(*) AS n,
    arg_min(source_file, coalesce(source_row, -1)) AS first_file,
    min(source_row) AS first_row,
    arg_min(detail, coalesce(source_row, -1)) AS first_detail
FROM quarantine
GROUP BY source, stage, reason
ORDER BY n DESC, source, stage, reason;
