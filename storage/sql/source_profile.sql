-- What is in each source? Its figures, with their share where they are counts out of n.
SELECT
    source,
    measure,
    subset,
    bucket,
    unit,
    value,
    n,
    CASE WHEN unit = 'count' AND n > 0 THEN value / n END AS share
FROM source_profiles
ORDER BY ALL;
